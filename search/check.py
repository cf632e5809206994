"""`search/run.py RECIPE --check` checks a study in about a minute, without training anything."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch
from rich.console import Console
from rich.markup import escape

from models.cost import count_cost
from models.network import SegmentationNetwork
from models.pruning import prune
from search.config import StudyConfig
from search.forecast.estimate import describe_estimate
from search.forecast.planning import plan_study, time_stages
from search.on_ray.allotment import allot
from search.on_ray.rehearsals import count_places
from search.on_ray.session import count_own_devices
from search.preflight import check_choices, name_networks
from search.study_time import make_tariff
from trainables.artifacts.remote_folder import RemoteFolder, is_uri
from trainables.context import StageContext, detect_device
from trainables.data import SegmentationDataset, write_preview
from trainables.learning.evaluation import evaluate
from trainables.network_config import NetworkConfig
from trainables.pipeline import DatasetSummary, check_data
from trainables.process.device_lock import DeviceLock
from trainables.sensitivity import scan_briefly
from trainables.stages.given import find_doubts
from trainables.stages.timing import describe_measurement

T = TypeVar("T")

MAX_IMAGES = 40  # validation images on which given weights are evaluated
EVALUATION_SECONDS = 15.0  # time for these images; a slow network is evaluated on fewer


class StudyCheck:
    """Checks a study step by step and continues after a problem, so that it reports all of them.

    Args:
        config: Study to check; its paths are settled.
        console: Console that gets a line for each step.

    Attributes:
        problems: Reasons why the study cannot be run.
        doubts: Findings that the user should look at.
    """

    def __init__(self, config: StudyConfig, console: Console) -> None:
        self._config = config
        self._console = console
        self.problems: list[str] = []
        self.doubts: list[str] = []

    def run(self, preview: Path) -> bool:
        """Check everything.

        Args:
            preview: Path of the picture of training samples that is written.

        Returns:
            True if the study can be run.
        """
        summary = self._step("data", self._read_data)
        if summary is not None:
            self._step("picture", lambda: self._draw(preview))
            for role, network in name_networks(self._config):
                self._step(role, functools.partial(self._try, role, network, summary))
            self._step("stages", self._check_stages)
        self._step("engine", self._describe_engine)
        if summary is not None and not self.problems and self._config.estimate:
            self._step("time", self._estimate)
        for text in self.doubts:
            self._console.print(f"  [yellow]look at:[/] {escape(text)}", soft_wrap=True)
        for text in self.problems:
            self._console.print(f"  [red]problem:[/] {escape(text)}", soft_wrap=True)
        verdict = f"{len(self.problems)} problems" if self.problems else "the study can be run"
        self._console.print(f"nothing was trained; {verdict}")
        return not self.problems

    def _step(self, name: str, work: Callable[[], tuple[str, T]]) -> T | None:
        try:
            text, result = work()
        except (ValueError, OSError, RuntimeError) as error:
            self.problems.append(f"{name}: {' '.join(str(error).split())}")
            return None
        self._console.print(f"{name:>10}: {text}", markup=False, highlight=False, soft_wrap=True)
        return result

    def _read_data(self) -> tuple[str, DatasetSummary]:
        pipeline = self._config.pipeline
        summary = check_data(pipeline, self._config.cache_dir)
        self.doubts += summary.warnings
        sizes = {split: len(pipeline.data.open(split)) for split in ("train", "val")}
        height, width = summary.resolution
        return (
            f"{summary.name}, {sizes['train']} training and {sizes['val']} validation images of "
            f"{height} x {width}, {summary.num_classes} classes: {', '.join(summary.classes)}",
            summary,
        )

    def _draw(self, preview: Path) -> tuple[str, None]:
        images = self._config.pipeline.data.open_cached("train", self._config.cache_dir)
        write_preview(images, preview)
        return f"training samples with their masks: {preview}", None

    def _try(self, role: str, config: NetworkConfig, summary: DatasetSummary) -> tuple[str, None]:
        """Build a network, try its weights on some images, and prune a student."""
        model = config.build(summary.num_classes)
        cost = count_cost(model, (3, *summary.resolution))
        text = (
            f"{config.name}, {cost.num_params / 1e6:.2f} M parameters, {cost.macs / 1e9:.2f} GMAC"
        )
        if config.weights is not None:
            miou = self._evaluate(model)
            counts = tuple(summary.class_counts["val"].values())
            self.doubts += find_doubts(role, config, miou, counts)
            if role != "teacher":
                train = self._config.pipeline.data.open_cached("train", self._config.cache_dir)
                self.doubts += scan_briefly(
                    model.cpu(), train, self._context, self._config.pipeline.sensitivity
                )["warnings"]
            text += f", {100 * miou:.1f} % mIoU with the given weights"
        if role != "teacher":
            record = prune(model.cpu().eval(), torch.zeros(1, 3, *self._crop), pruning_ratio=0.5)
            left = count_cost(model, (3, *summary.resolution))
            text += f"; pruned by half {left.num_params / 1e6:.2f} M, {left.macs / 1e9:.2f} GMAC"
            if record.unprunable:
                self.doubts.append(
                    f"{role}: pruning leaves {len(record.unprunable)} layers whole, such as "
                    + "; ".join(f"{n} ({why})" for n, why in list(record.unprunable.items())[:3])
                )
        return text, None

    def _check_stages(self) -> tuple[str, None]:
        check_choices(self._config)
        return ", ".join(self._config.pipeline.chain), None

    @property
    def _crop(self) -> tuple[int, int]:
        return self._config.pipeline.data.augmentation.crop_size

    def _evaluate(self, model: SegmentationNetwork) -> float:
        """Measure mIoU on as many images, evenly spread, as there is time for."""
        images = self._config.pipeline.data.open_cached("val", self._config.cache_dir)
        started = time.monotonic()
        self._evaluate_on(model, images, 1)
        seconds = max(time.monotonic() - started, 1e-3)
        count = min(len(images), MAX_IMAGES, max(4, int(EVALUATION_SECONDS / seconds)))
        return self._evaluate_on(model, images, count)

    def _evaluate_on(
        self, model: SegmentationNetwork, images: SegmentationDataset, count: int
    ) -> float:
        picked = [number * len(images) // count for number in range(count)]
        return evaluate(model, images, self._context, indices=picked).miou

    @property
    def _context(self) -> StageContext:
        device = detect_device()
        return StageContext(
            cache_dir=self._config.cache_dir, device=device, device_lock=DeviceLock(device)
        )

    def _describe_engine(self) -> tuple[str, None]:
        latency, device = self._config.pipeline.latency, detect_device()
        name = describe_measurement(latency, device)["engine"]["name"]
        where = f" on {latency.host}" if latency.host else ""
        return f"latency is measured in {name}{where}", None

    def _estimate(self) -> tuple[str, None]:
        """Time a few steps of every kind of stage on this machine, and say what they come to."""
        resources = allot(self._config, *count_own_devices())
        places = count_places(resources)
        context = replace(self._context, num_threads=resources.num_cpus)
        timed = time_stages(self._config, context, resources.num_cpus_baseline)
        store = self._config.store
        is_remote = store is not None and is_uri(store)
        stages_dir = None if store is None or is_remote else Path(store)
        stored = RemoteFolder(store).list() if store is not None and is_remote else ()
        config, estimate = plan_study(
            self._config, *timed, places, stages_dir=stages_dir, stored=stored
        )
        tariff = make_tariff(config, resources.num_gpus)
        lines = describe_estimate(config, estimate, places, tariff)
        return "; ".join(lines), None


def check(config: StudyConfig, console: Console, preview: Path) -> bool:
    """Check a study; see `StudyCheck.run`."""
    level = logging.getLogger().level
    logging.getLogger().setLevel("ERROR")  # the warnings are among the doubts printed here
    try:
        return StudyCheck(config, console).run(preview)
    finally:
        logging.getLogger().setLevel(level)
