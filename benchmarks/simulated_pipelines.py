"""Pipelines that are not trained: a model says what their stages would take and bring."""

from __future__ import annotations

import csv
import json
import math
import statistics
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from trainables.pipeline import BASELINES, PATH, Baseline, get_prefix
from trainables.pipeline_config import PipelineSettings

COSTS = ("latency_ms", "num_params", "macs")
STAGES = PATH[1:]


class PipelineModel(Protocol):
    """Answers for every pipeline, the same answer for the same question."""

    def get_baseline(self, name: str) -> tuple[Baseline, float]:
        """The teacher or the dense student, and the seconds of its training."""

    def get_costs(self, settings: PipelineSettings) -> dict[str, float]:
        """Latency in ms, parameters and MACs of the pruned network."""

    def get_miou(
        self, settings: PipelineSettings, share: float = 1.0, *, is_noisy: bool = True
    ) -> float:
        """Accuracy, in 0..1, after that share of the distillation; without noise its mean."""

    def get_seconds(self, settings: PipelineSettings, stage: str) -> float:
        """Seconds of a whole stage; "pruned" includes the measurement of latency."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SyntheticPipelines:
    """Learning curves and costs by formula, in the proportions of the camvid recipe.

    With p the pruning ratio, u = (log10 lambda + 5) / 2 and relative to the dense student
    (mIoU 0.49, 117 ms, 4.7 million parameters, 4.4 billion MACs):

    - local scope: parameters and MACs (1 - p)^2, latency 1 - p; global scope: (1 - p)^2.4,
      (1 - p)^1.4 and (1 - p)^0.7. Each architecture's latency is off by 2 %.
    - final mIoU = 0.50 - 0.3 p^2.5 (1 - 0.35 u) (1.15 local, 0.9 global) - 0.015 u^2 - what the
      distillation's settings lose: a sum of squared distances from the best ones, up to 7 points,
      with the best learning rate growing with p; 2 points without a teacher; and, if asked for,
      what global pruning ruins by closing thin layers.
    - after a share s of the steps: start + (final - start) (1 - e^(-rs)) / (1 - e^(-r)), where
      smaller networks start lower and r is 2 to 4, larger with the learning rate: curves cross.
    - Gaussian noise of the given deviation at the end, three times that at the beginning.
    - seconds: teacher 1600, dense 600, sparse 120, pruned 40, distilled 330 (0.38 + 0.62 MACs);
      each off by 10 %.

    The local costs and the seconds follow a measured CamVid run; the rest is only plausible.

    Attributes:
        seed: Of all noise.
        noise: Standard deviation of the final mIoU over seeds.
        global_harm: mIoU lost under global scope. Without any, a network is worse than a smaller
            one by its distillation alone, and there is little for the accuracy bound to find.
    """

    seed: int = 0
    noise: float = 0.005
    global_harm: float = 0.0

    def get_baseline(self, name: str) -> tuple[Baseline, float]:
        """See `PipelineModel`."""
        if name == "teacher":
            return Baseline(name, "deeplabv3plus", 0.60, 166.0, 170.0, 4_380_000, 4 * 10**9, ""), (
                1600.0
            )
        return Baseline(
            name, "dual_branch", 0.49, 117.0, 120.0, 4_740_000, 4_352_000_000, ""
        ), 600.0

    def get_costs(self, settings: PipelineSettings) -> dict[str, float]:
        """See `PipelineModel`."""
        kept = 1 - settings.pruning_ratio
        latency, params, macs = (1, 2, 2) if settings.scope == "local" else (0.7, 2.4, 1.4)
        off = math.exp(0.02 * self._draw(*get_prefix(settings, "pruned"), "latency"))
        return {
            "latency_ms": 117.0 * kept**latency * off,
            "num_params": float(round(4_740_000 * kept**params)),
            "macs": float(round(4_352_000_000 * kept**macs)),
        }

    def get_miou(
        self, settings: PipelineSettings, share: float = 1.0, *, is_noisy: bool = True
    ) -> float:
        """See `PipelineModel`."""
        p, u = settings.pruning_ratio, _normalise(settings.sparsity_lambda, 1e-5, 1e-3, log=True)
        scope, harm = (1.15, 0.0) if settings.scope == "local" else (0.9, self.global_harm)
        lr = _normalise(settings.lr, 3e-3, 3e-2, log=True)
        lost = 0.05 * (lr - 0.5 - 0.3 * (p - 0.5)) ** 2
        if settings.distiller == "none":
            lost += 0.02
        else:
            lost += (
                0.05 * (_normalise(settings.temperature, 1, 8, log=True) - 0.6) ** 2
                + 0.03 * (settings.alpha / 2 - 0.5) ** 2
                + 0.05 * (settings.beta / 10 - 0.8) ** 2
                + 0.03 * (_normalise(settings.eta, 0.5, 2) - 0.35) ** 2
            )
        final = 0.50 - 0.3 * math.pow(p, 2.5) * (1 - 0.35 * u) * scope - 0.015 * u**2 - harm - lost
        start, rate = final * (0.7 - 0.5 * p), 3.0 + 2 * (lr - 0.5)
        miou = start + (final - start) * math.expm1(-rate * share) / math.expm1(-rate)
        if is_noisy:
            key = (*get_prefix(settings, "distilled"), share)
            miou += self.noise * (3 - 2 * share) * self._draw(*key)
        return min(1.0, max(0.0, miou))

    def get_seconds(self, settings: PipelineSettings, stage: str) -> float:
        """See `PipelineModel`."""
        macs = self.get_costs(settings)["macs"] / 4_352_000_000
        typical = {"sparse": 120.0, "pruned": 40.0, "distilled": 330 * (0.38 + 0.62 * macs)}
        return typical[stage] * math.exp(0.1 * self._draw(*get_prefix(settings, stage), stage))

    def _draw(self, *key: Any) -> float:
        """A standard normal number that belongs to the key."""
        entropy = zlib.crc32(repr(key).encode())
        return float(np.random.default_rng([self.seed, entropy]).standard_normal())


class RecordedPipelines:
    """Answers with the nearest trial of a finished run, and its curve with the synthetic shape.

    Nearest in the settings that the numbers depend on: costs and seconds of a stage in those of its
    prefix, each setting scaled to its recorded range and another choice at distance 1.

    Args:
        run_dir: Folder of a run with trials.csv and metadata.json.

    Raises:
        ValueError: The folder lacks either file, a baseline or a complete trial.
    """

    def __init__(self, run_dir: Path) -> None:
        try:
            with (run_dir / "trials.csv").open(newline="") as file:
                rows = [row for row in csv.DictReader(file) if row["state"] == "complete"]
            entries = json.loads((run_dir / "metadata.json").read_text())["baselines"]
        except (OSError, KeyError, ValueError) as error:
            raise ValueError(f"{run_dir} is not the folder of a finished run: {error}") from None
        self._baselines = {entry["name"]: Baseline(**entry) for entry in entries}
        if not rows or set(self._baselines) != set(BASELINES):
            raise ValueError(f"{run_dir} needs both baselines and a complete trial")
        self._trials = [(_read_settings(row), row) for row in rows]
        self._shape = SyntheticPipelines(noise=0.0)
        self._seconds = {stage: _typical_seconds(rows, stage) for stage in (*BASELINES, *STAGES)}

    def get_baseline(self, name: str) -> tuple[Baseline, float]:
        """See `PipelineModel`; a training that the run reused takes as long as a distillation."""
        return self._baselines[name], self._seconds[name] or self._seconds["distilled"]

    def get_costs(self, settings: PipelineSettings) -> dict[str, float]:
        """See `PipelineModel`."""
        row = self._nearest(settings, "pruned")
        return {name: float(row[name]) for name in COSTS}

    def get_miou(
        self, settings: PipelineSettings, share: float = 1.0, *, is_noisy: bool = True
    ) -> float:
        """See `PipelineModel`; the record holds one draw, so there is no mean beside it."""
        final = float(self._nearest(settings, "distilled")["miou"])
        whole = self._shape.get_miou(settings)
        return final * (self._shape.get_miou(settings, share) / whole if whole else 1.0)

    def get_seconds(self, settings: PipelineSettings, stage: str) -> float:
        """See `PipelineModel`; 0 was written where a trial reused a stage, hence the median."""
        return self._seconds[stage]

    def _nearest(self, settings: PipelineSettings, stage: str) -> Mapping[str, str]:
        wanted = get_prefix(settings, stage)
        prefixes = [get_prefix(recorded, stage) for recorded, _ in self._trials]
        spans = [_span(column) for column in zip(*prefixes, strict=True)]
        gaps = [
            sum(_distance(a, b, s) for a, b, s in zip(prefix, wanted, spans, strict=True))
            for prefix in prefixes
        ]
        return self._trials[gaps.index(min(gaps))][1]


def _normalise(value: float, low: float, high: float, *, log: bool = False) -> float:
    if log:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return (value - low) / (high - low)


def _read_settings(row: Mapping[str, str]) -> PipelineSettings:
    default = PipelineSettings()
    found = {
        entry.name: type(getattr(default, entry.name))(row[f"config/{entry.name}"])
        for entry in fields(PipelineSettings)
    }
    return replace(default, **found)


def _typical_seconds(rows: Sequence[Mapping[str, str]], stage: str) -> float:
    names = ("pruned", "latency") if stage == "pruned" else (stage,)
    total = 0.0
    for name in names:
        paid = [float(row.get(f"seconds/{name}") or 0) for row in rows]
        total += statistics.median([seconds for seconds in paid if seconds > 0] or [0.0])
    return total


def _span(values: Sequence[Any]) -> float:
    if isinstance(values[0], str):
        return 1.0
    return float(max(values) - min(values)) or 1.0


def _distance(a: Any, b: Any, span: float) -> float:
    return float(a != b) if isinstance(a, str) else float(abs(a - b) / span)
