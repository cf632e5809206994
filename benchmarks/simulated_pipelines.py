"""Pipelines that are not trained: a model says how long their stages take and what they yield."""

from __future__ import annotations

import csv
import json
import math
import statistics
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainables.chain import ChainSettings, Prefix, build_chain, flatten_chain, freeze
from trainables.pipeline import Baseline, build_baselines
from trainables.pipeline_config import DEFAULT_STAGES, PipelineConfig

COSTS = ("latency_ms", "num_params", "macs")
BASELINES = {name: tuple(step.stage for step in chain)
             for name, chain in build_baselines(PipelineConfig()).items()}  # fmt: skip
"""The stages of the uncompressed networks, by name."""
STAGES = DEFAULT_STAGES[1:]
SCAN_SECONDS = 10.0
"""Duration of the stage sensitivity, which only uncompressed students pass."""


class PipelineModel(Protocol):
    """A model that answers for every pipeline; equal questions get equal answers."""

    def get_baseline(self, name: str) -> tuple[Baseline, float]:
        """Get the teacher or the dense student, and the seconds of its training."""

    def get_costs(self, settings: ChainSettings) -> dict[str, float]:
        """Get the latency in ms, the parameters and the MACs of the pruned network."""

    def get_miou(
        self,
        settings: ChainSettings,
        share: float = 1.0,
        *,
        is_noisy: bool = True,
        before: float = 0.0,
    ) -> float:
        """Get the mIoU, from 0 to 1, after a share of the distillation; without noise, its mean.

        Args:
            settings: Settings of the pipeline, by "stage.setting".
            share: Fraction of the distillation, from 0 to 1.
            is_noisy: Whether the result has the noise of one training.
            before: Pruning ratio of the network that this one continues from; 0: the unpruned one.
        """

    def get_seconds(self, settings: ChainSettings, stage: str) -> float:
        """Get the seconds of a whole stage other than the training of the teacher or dense student.

        Args:
            settings: Settings of at least the stages up to this one, by "stage.setting".
            stage: Name of the stage.
        """


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticPipelines:
    """Pipelines whose learning curves and costs follow formulas like those of the camvid recipe.

    With p the pruning ratio, u = (log10 lambda + 5) / 2 and relative to the dense student
    (mIoU 0.49, 117 ms, 4.7 million parameters, 4.4 billion MACs):

    - local scope: parameters and MACs (1 - p)^2, latency 1 - p; global scope: (1 - p)^2.4,
      (1 - p)^1.4 and (1 - p)^0.7. Each architecture's latency is off by 2 %.
    - final mIoU = 0.50 - 0.3 p^2.5 (1 - 0.35 u) (1.15 local, 0.9 global) - 0.015 u^2 - the loss by
      the settings of the distillation: a sum of squared distances from the best settings, up to 7
      points (the best learning rate grows with p), or 2 points without a teacher; and, if it is
      switched on, the harm of global pruning, which closes thin layers.
    - a network continued from one of ratio q gains 0.18 (p - 0.2)^2 q/p for p above 0.2: 4 points
      at 0.7, as measured along a chain on CamVid at 96 x 128 (docs/trial_designs.md).
    - after a share s of the steps: start + (final - start) (1 - e^(-rs)) / (1 - e^(-r)), where
      smaller networks start lower and r is 2 to 4, larger with the learning rate: curves cross.
    - Gaussian noise of the given deviation at the end, three times that at the beginning.
    - seconds: teacher 1600, dense 600, sensitivity 10, sparse 120, pruned 20, latency 20, distilled
      330 (0.38 + 0.62 MACs); each off by 10 %. With `training_hours` h, the whole student takes h
      in each training and the teacher 2 h. Every pruned network is measured separately, as if no
      other had its widths.

    The local costs and the seconds follow a measured CamVid run; the rest is only plausible.

    Attributes:
        seed: Seed of all noise.
        noise: Standard deviation of the final mIoU over seeds.
        global_harm: mIoU lost under global scope. If it is 0, a network is worse than a smaller one
            only because of its distillation, and the accuracy bound can stop few networks.
        training_hours: Hours of each training of the unpruned student; None: as on CamVid.
    """

    seed: int = 0
    noise: float = 0.005
    global_harm: float = 0.0
    training_hours: float | None = None

    def get_baseline(self, name: str) -> tuple[Baseline, float]:
        """See `PipelineModel`."""
        teacher, student = (1600.0, 600.0)
        if self.training_hours is not None:
            teacher, student = 7200 * self.training_hours, 3600 * self.training_hours
        if name == "teacher":
            return Baseline(
                name=name, model="deeplabv3plus", miou=0.60, latency_ms=166.0, latency_p95_ms=170.0,
                num_params=4_380_000, macs=4 * 10**9, stage="",
            ), teacher  # fmt: skip
        return Baseline(
            name=name, model="dual_branch", miou=0.49, latency_ms=117.0, latency_p95_ms=120.0,
            num_params=4_740_000, macs=4_352_000_000, stage="",
        ), student  # fmt: skip

    def get_costs(self, settings: ChainSettings) -> dict[str, float]:
        """See `PipelineModel`."""
        kept, is_local = 1 - settings["pruned.pruning_ratio"], settings["pruned.scope"] == "local"
        latency, params, macs = (1, 2, 2) if is_local else (0.7, 2.4, 1.4)
        off = math.exp(0.02 * self._draw(*get_prefix(settings, "pruned"), "latency"))
        return {
            "latency_ms": 117.0 * kept**latency * off,
            "num_params": float(round(4_740_000 * kept**params)),
            "macs": float(round(4_352_000_000 * kept**macs)),
        }

    def get_miou(
        self,
        settings: ChainSettings,
        share: float = 1.0,
        *,
        is_noisy: bool = True,
        before: float = 0.0,
    ) -> float:
        """See `PipelineModel`."""
        p: float = settings["pruned.pruning_ratio"]
        u = _normalise(settings["sparse.sparsity_lambda"], 1e-5, 1e-3, log=True)
        is_local = settings["pruned.scope"] == "local"
        scope, harm = (1.15, 0.0) if is_local else (0.9, self.global_harm)
        lr = _normalise(settings["distilled.lr"], 3e-3, 3e-2, log=True)
        lost = 0.05 * (lr - 0.5 - 0.3 * (p - 0.5)) ** 2 + _lose_by_distiller(settings)
        final = 0.50 - 0.3 * math.pow(p, 2.5) * (1 - 0.35 * u) * scope - 0.015 * u**2 - harm - lost
        start, rate = final * (0.7 - 0.5 * p), 3.0 + 2 * (lr - 0.5)
        if before:
            final += 0.18 * max(0.0, p - 0.2) ** 2 * before / p
        miou: float = start + (final - start) * math.expm1(-rate * share) / math.expm1(-rate)
        if is_noisy:
            key = (*get_prefix(settings, "distilled"), share, *([before] if before else []))
            miou += self.noise * (3 - 2 * share) * self._draw(*key)
        return min(1.0, max(0.0, miou))

    def get_seconds(self, settings: ChainSettings, stage: str) -> float:
        """See `PipelineModel`."""
        whole = None if self.training_hours is None else 3600 * self.training_hours
        typical = {"sensitivity": SCAN_SECONDS, "sparse": whole or 120.0, "pruned": 20.0,
                   "latency": 20.0}  # fmt: skip
        if stage == "distilled":
            macs = self.get_costs(settings)["macs"] / 4_352_000_000
            typical[stage] = (whole or 330.0) * (0.38 + 0.62 * macs)
        return typical[stage] * math.exp(0.1 * self._draw(*get_prefix(settings, stage), stage))

    def _draw(self, *key: Any) -> float:
        """Draw a standard normal number that depends only on the key."""
        entropy = zlib.crc32(repr(key).encode())
        return float(np.random.default_rng([self.seed, entropy]).standard_normal())


class RecordedPipelines:
    """Pipelines of a recorded run: the answers come from its nearest finished trial.

    The nearest trial is found by the settings on which a number depends: those of the stages up to
    the one in question. Each setting is scaled to its recorded range, and different choices have
    distance 1. The learning curve has the shape of `SyntheticPipelines`.

    Args:
        run_dir: Folder of a run, which contains trials.csv and metadata.json.

    Raises:
        ValueError: The folder lacks one of these files, a baseline or a complete trial.
    """

    def __init__(self, run_dir: Path) -> None:
        try:
            with (run_dir / "trials.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
            entries = json.loads((run_dir / "metadata.json").read_text())["baselines"]
            self._trials = [(_read_settings(row), row) for row in rows]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{run_dir} is not the folder of a finished run: {error}") from None
        self._baselines = {entry["name"]: Baseline.restore(entry) for entry in entries}
        if not rows or set(self._baselines) != set(BASELINES):
            raise ValueError(f"{run_dir} must contain both baselines and a complete trial")
        self._shape = SyntheticPipelines(noise=0.0)
        self._seconds = {stage: _typical_seconds(rows, stage) for stage in (*BASELINES, *STAGES)}
        self._seconds["sensitivity"] = SCAN_SECONDS

    def get_baseline(self, name: str) -> tuple[Baseline, float]:
        """See `PipelineModel`; a training that the run reused counts as long as a distillation."""
        return self._baselines[name], self._seconds[name] or self._seconds["distilled"]

    def get_costs(self, settings: ChainSettings) -> dict[str, float]:
        """See `PipelineModel`."""
        row = self._nearest(settings, "pruned")
        return {name: float(row[name]) for name in COSTS}

    def get_miou(
        self,
        settings: ChainSettings,
        share: float = 1.0,
        *,
        is_noisy: bool = True,
        before: float = 0.0,
    ) -> float:
        """See `PipelineModel`; the record contains a single draw, so its mean is unknown.

        What a network gains from the one that it continues is not in the record.
        """
        final = float(self._nearest(settings, "distilled")["miou"])
        whole = self._shape.get_miou(settings)
        return final * (self._shape.get_miou(settings, share) / whole if whole else 1.0)

    def get_seconds(self, settings: ChainSettings, stage: str) -> float:
        """See `PipelineModel`; it is the median, because a trial that reused a stage has 0."""
        return self._seconds[stage]

    def _nearest(self, settings: ChainSettings, stage: str) -> Mapping[str, str]:
        wanted = dict(get_prefix(settings, stage))
        prefixes = [dict(get_prefix(recorded, stage)) for recorded, _ in self._trials]
        names = wanted.keys() | set().union(*prefixes)
        spans = {
            name: _span([prefix[name] for prefix in prefixes if name in prefix]) for name in names
        }
        gaps = [
            math.fsum(_distance(prefix.get(name), wanted.get(name), spans[name]) for name in names)
            for prefix in prefixes
        ]
        return self._trials[gaps.index(min(gaps))][1]


def get_prefix(settings: ChainSettings, stage: str) -> Prefix:
    """Select the settings of the stages up to the given one; of any other stage, the root's."""
    end = DEFAULT_STAGES.index(stage) if stage in DEFAULT_STAGES else 0
    stages = DEFAULT_STAGES[: end + 1]
    return freeze({k: v for k, v in settings.items() if k.partition(".")[0] in stages})


def _lose_by_distiller(settings: ChainSettings) -> float:
    distiller = settings["distilled.distiller"]
    if distiller == "none":
        return 0.02
    lost = 0.0
    for name, weight, low, high, log, best in (
        ("temperature", 0.05, 1, 8, True, 0.6),
        ("alpha", 0.03, 0, 2, False, 0.5),
        ("beta", 0.05, 0, 10, False, 0.8),
        ("eta", 0.03, 0.5, 2, False, 0.35),
    ):
        value = settings.get(f"distilled.{distiller}.{name}")
        if value is not None:
            lost += weight * (_normalise(value, low, high, log=log) - best) ** 2
    return lost


def _normalise(value: float, low: float, high: float, *, log: bool = False) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _read_settings(row: Mapping[str, str]) -> ChainSettings:
    """Read the settings of a trial; cells of settings that the trial does not use are empty."""
    chosen = {
        column.removeprefix("config/"): value
        for column, value in row.items()
        if column.startswith("config/") and value
    }
    return flatten_chain(build_chain(DEFAULT_STAGES, chosen))


def _typical_seconds(rows: Sequence[Mapping[str, str]], stage: str) -> float:
    paid = [float(row.get(f"seconds/{stage}") or 0) for row in rows]
    return statistics.median([seconds for seconds in paid if seconds > 0] or [0.0])


def _span(values: Sequence[Any]) -> float:
    if not values or isinstance(values[0], str):
        return 1.0
    return float(max(values) - min(values)) or 1.0


def _distance(a: Any, b: Any, span: float) -> float:
    """Compute the distance of two values: 1 for different choices, or if one does not exist."""
    if a is None or b is None or isinstance(a, str):
        return float(a != b)
    return float(abs(a - b) / span)
