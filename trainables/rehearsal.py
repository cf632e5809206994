"""Times a few steps and images of every kind of stage before a study begins.

A rehearsal runs the stages of the study themselves, for a few steps on the first images of each
split. It stores their artefacts in a scratch folder.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from trainables.artifacts.store import ArtifactStore
from trainables.chain import Chain, list_choosers
from trainables.context import StageContext, Unit, ignore_unit
from trainables.data import CachedDataset, cache_dataset
from trainables.data_source import DataConfig
from trainables.pipeline import build_stages, run_stage
from trainables.pipeline_config import PipelineConfig
from trainables.settings import flatten
from trainables.stages import STAGES
from trainables.stages.stage import NetworkStage, Stage, Work

NUM_STEPS = 8  # the first one pays for memory and for the choice of kernels, and does not count
NUM_IMAGES = 8
LATENCY_SECONDS = 1.0
SCAN_SECONDS = 1.0


class StageRate(NamedTuple):
    """How long the stages of a kind take.

    Attributes:
        seconds_per_step: Seconds of a training step.
        seconds_per_image: Seconds of an image in an evaluation.
        fixed_seconds: Seconds of everything else: loading, pruning, exporting, saving.
        longest_share: Duration of a measurement as a fraction of its longest duration, in 0..1.
        width: Fraction of its channels that the timed network still had, in 0..1.
    """

    seconds_per_step: float = 0.0
    seconds_per_image: float = 0.0
    fixed_seconds: float = 0.0
    longest_share: float = 0.0
    width: float = 1.0

    def predict(self, work: Work) -> float:
        """Seconds of a stage that has so much to do."""
        return (
            self.fixed_seconds
            + self.seconds_per_step * work.num_steps
            + self.seconds_per_image * work.num_images
            + self.longest_share * work.longest_seconds
        )


def name_kind(chain: Chain) -> str:
    """Name the kind of a chain's last stage; stages of a kind take about equally long.

    A kind is a stage of one of the study's networks, with what is chosen among options that have
    settings of their own (such as the distiller).
    """
    last = chain[-1]
    if len(chain) == 1:
        return name_family(chain)
    chosen = flatten(last.settings)
    choosers = [name.partition(".")[2] for name in list_choosers((last.stage,))]
    return " ".join([name_family(chain), *(str(chosen[name]) for name in choosers)])


def name_family(chain: Chain) -> str:
    """Name the kinds of a chain's last stage together, whatever is chosen among its options."""
    root = chain[0]
    parts = [root.stage, *map(str, flatten(root.settings).values())]
    return " ".join(parts if len(chain) == 1 else [*parts, chain[-1].stage])


def find_width(chain: Chain) -> float:
    """Share of its channels that the network at the end of a chain still has, within 0..1."""
    removed = 0.0
    for step in chain:
        if STAGES[step.stage].rising_setting:
            removed = float(flatten(step.settings)[STAGES[step.stage].rising_setting])
    return 1.0 - removed


def rehearse(
    config: PipelineConfig,
    chain: Chain,
    context: StageContext,
    scratch: Path,
    *,
    rates: MutableMapping[str, StageRate],
    num_threads_root: int | None = None,
) -> None:
    """Run the stages of a chain in small and time them.

    Args:
        config: What the study shares.
        chain: What is rehearsed; stages that `scratch` has from another chain are not run again.
        context: Device, threads of a pipeline's stage, and the cache of the decoded images.
        scratch: Folder for what the stages leave.
        rates: Takes the rate of every kind of stage (`name_kind`) that it does not have yet.
        num_threads_root: Threads of the chain's first stage; None: as the others.

    Raises:
        Exception: Whatever a stage raises; the stages before it are in `rates`.
    """
    small = shrink(config, context.cache_dir)
    store = ArtifactStore(scratch / "stages")
    for length, step in enumerate(chain, start=1):
        part, stage = chain[:length], STAGES[step.stage]
        watch = Stopwatch(has_loaders=context.num_workers > 0)
        threads = num_threads_root if length == 1 and num_threads_root else context.num_threads
        own = replace(context, cache_dir=scratch / "cache", num_threads=threads, count=watch)
        _obtain_shared(build_stages(small, part)[-1], store, replace(own, count=ignore_unit))
        started = time.monotonic()
        result = run_stage(small, part, store, own)
        seconds = time.monotonic() - started
        kind = name_kind(part)
        if kind not in rates and result.seconds.get(step.stage):  # 0 where it was found
            work = stage.count_work(step.settings, small)
            rates[kind] = watch.find_rate(seconds, work)._replace(width=find_width(part))


def _obtain_shared(stage: Stage, store: ArtifactStore, context: StageContext) -> None:
    """Compute what a stage shares with all of its kind, such as a sensitivity scan."""
    if isinstance(stage, NetworkStage):
        for parent in stage.parents.values():
            if not isinstance(parent, NetworkStage):
                parent.obtain(store, context)


def shrink(config: PipelineConfig, cache_dir: Path) -> PipelineConfig:
    """The configuration of a rehearsal: few images, few steps, short measurements.

    Args:
        config: Of the study.
        cache_dir: Where the decoded images of the study lie.
    """
    given: dict[str, Any] = {f.name: getattr(config.data, f.name) for f in fields(config.data)}
    latency = replace(config.latency, max_seconds=min(LATENCY_SECONDS, config.latency.max_seconds))
    scan_seconds = min(SCAN_SECONDS, config.sensitivity.max_seconds)
    scan = replace(config.sensitivity, max_seconds=scan_seconds)
    images = FirstImages(**given, source_dir=cache_dir)
    small = replace(config, data=images, latency=latency, sensitivity=scan)
    for stage in STAGES.values():  # the teacher trains too, although it is not in the chain
        small = stage.set_length(small, NUM_STEPS)
    return small


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstImages(DataConfig):
    """The first images of each split of a data set.

    Attributes:
        source_dir: Where the decoded images of all splits lie.
    """

    source_dir: Path = Path()

    def open(self, split: str) -> CachedDataset:
        """Open the first images of a split."""
        original = DataConfig.open(self, split)
        excerpt = _Excerpt(cache_dataset(original, self.source_dir))
        motion = getattr(original, "motion", None)
        if motion is not None:  # of drawn frames; the cache has images and labels only
            excerpt.motion = motion
        return excerpt

    def open_cached(self, split: str, cache_dir: Path) -> CachedDataset:
        """The same; they are decoded already."""
        return self.open(split)


class _Excerpt(CachedDataset):
    """The first images of a decoded data set.

    Attributes:
        motion: See `trainables.data.optical_flow.find_motion`; missing if the data set does not
            know it.
    """

    motion: Callable[[int], Tensor]

    def __init__(self, whole: CachedDataset) -> None:
        super().__init__(whole.folder)
        self._names, self._sizes = self._names[:NUM_IMAGES], self._sizes[:NUM_IMAGES]
        self._fingerprint = f"first {NUM_IMAGES} of {whole.fingerprint}"


class Stopwatch:
    """Notes when each step and each image of a stage ends.

    Args:
        has_loaders: Whether other processes load the data, so that steps come in bursts.
    """

    def __init__(self, *, has_loaders: bool) -> None:
        self._moments: Mapping[Unit, list[float]] = {"step": [], "image": []}
        self._has_loaders = has_loaders

    def __call__(self, unit: Unit) -> None:
        """Note that a step or an image has ended."""
        self._moments[unit].append(time.monotonic())

    def find_rate(self, seconds: float, work: Work) -> StageRate:
        """Divide the seconds of a stage among its units and the rest.

        Args:
            seconds: Of the whole stage.
            work: What it had to do; an evaluation that is repeated counts as often as it was.
        """
        step, image = self._each("step"), self._each("image")
        rest = max(0.0, seconds - self._span("step") - self._span("image") - step - image)
        rate = StageRate(
            seconds_per_step=step * len(self._moments["step"]) / max(1, work.num_steps),
            seconds_per_image=image * len(self._moments["image"]) / max(1, work.num_images),
        )
        # The time beyond a measurement's limit (such as the export) does not grow with the limit.
        measured = min(rest, work.longest_seconds)
        share = measured / work.longest_seconds if measured else 0.0
        return rate._replace(longest_share=share, fixed_seconds=rest - measured)

    def _span(self, unit: Unit) -> float:
        moments = self._moments[unit]
        return moments[-1] - moments[0] if moments else 0.0

    def _each(self, unit: Unit) -> float:
        """Time from one unit to the next; 0 where there are fewer than two.

        A lower quartile: other work on the machine would make one kind of stage look slow that was
        timed in a bad second, and what the machine is like on average the study itself will show.
        """
        moments = self._moments[unit]
        if len(moments) < 2:
            return 0.0
        if self._has_loaders:
            return self._span(unit) / (len(moments) - 1)
        intervals = [later - earlier for earlier, later in itertools.pairwise(moments)]
        return float(np.quantile(intervals, 0.25))
