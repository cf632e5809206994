"""A stage that computes something else has a new version, so that no run finds older figures.

`stage_versions.json` holds what each version computes from fixed inputs. To record a new version:
SEGFRONT_RECORD_STAGES=1 pytest -n 0 tests/trainables/test_stage_versions.py
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from models import latency
from models.checkpoint import load_checkpoint, read_structure, save_checkpoint
from models.timing import timed_runs
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.pipeline_config import LatencyConfig, PipelineConfig
from trainables.stages.latency import ArchitectureLatency
from trainables.stages.pruned import PrunedSettings, PrunedStage
from trainables.stages.reference import ReferenceStage
from trainables.stages.stage import NetworkStage

RECORD_FILE = Path(__file__).with_name("stage_versions.json")
RECORD_VARIABLE = "SEGFRONT_RECORD_STAGES"
COMMAND = f"{RECORD_VARIABLE}=1 pytest -n 0 tests/trainables/test_stage_versions.py"
PRUNINGS = {
    "local": PrunedSettings(pruning_ratio=0.4),
    "global, after 0.2": PrunedSettings(pruning_ratio=0.5, scope="global"),
    "group_l2 in eights": PrunedSettings(pruning_ratio=0.5, importance="group_l2", round_to=8),
}

Computed = dict[str, Any]


def find_problem(name: str, version: int, computed: Computed, recorded: Mapping[str, Any]) -> str:
    """What must be done about a stage before its record holds; empty if it holds.

    Args:
        name: Of the stage.
        version: That it has.
        computed: What it computes now.
        recorded: Its `version` when it was recorded, and what it `computes`; empty for a new one.
    """
    if not recorded or version > recorded["version"]:
        return f"version {version} of {name} is not recorded yet: {COMMAND}"
    if version < recorded["version"]:
        return f"{name} has version {version}, lower than the recorded {recorded['version']}"
    before = recorded["computes"]
    changed = sorted(k for k in {*computed, *before} if differ(computed.get(k), before.get(k)))
    if not changed:
        return ""
    return (
        f"{name} computes something else ({', '.join(changed)}) under the same version {version}: "
        f"a resumed run would mix older figures with new ones. Raise its `version` to "
        f"{version + 1}, then record it: {COMMAND}"
    )


def differ(one: Any, other: Any) -> bool:
    if type(one) is type(other) and isinstance(one, float | list):
        return one != pytest.approx(other, rel=1e-6)
    return bool(one != other)


def check(name: str, version: int, computed: Computed) -> None:
    records = json.loads(RECORD_FILE.read_text()) if RECORD_FILE.exists() else {}
    problem = find_problem(name, version, computed, records.get(name, {}))
    if os.environ.get(RECORD_VARIABLE) and problem.endswith(f"not recorded yet: {COMMAND}"):
        records[name] = {"version": version, "computes": computed}
        RECORD_FILE.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
        return
    assert not problem, problem


def flatten(case: str, result: Mapping[str, Any]) -> Computed:
    """Fields of a result and its figures; not what depends on the machine, nor accuracy."""
    left_out = ("hardware", "clocks", "engine", "seconds", "miou", "iou", "pixel_accuracy")
    figures = {name: value for name, value in result.items() if name not in left_out}
    return {f"{case}: fields": ", ".join(sorted(result))} | {
        f"{case}: {name}": list(value) if isinstance(value, tuple) else value
        for name, value in figures.items()
    }


@pytest.fixture
def network(tiny_config: PipelineConfig, tmp_path: Path) -> Artifact:
    """The student with scales and weights that are the same everywhere, and all different."""
    model = tiny_config.student.build(11)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    with torch.no_grad():
        for index, layer in enumerate(norms):
            number = torch.arange(layer.num_features)
            layer.weight.copy_(0.01 + (37 * number + 11 * index) % 1009 / 1009)
        for index, (_, tensor) in enumerate(model.named_parameters()):
            if tensor.dim() == 4:
                number = torch.arange(len(tensor)).view(-1, 1, 1, 1)
                tensor.copy_((0.01 + (53 * number + 7 * index) % 997 / 997).expand_as(tensor))
    folder = tmp_path / "network"
    folder.mkdir()
    save_checkpoint(folder / "checkpoint.safetensors", model, {"miou": 0.0})
    return Artifact(folder, {}, reused=False)


class Given(NetworkStage):
    """Stands for the stage of the network that is pruned or measured."""

    name = "given"
    parents: Mapping[str, Any] = {}

    def content(self) -> dict[str, Any]:
        return {}

    build = compute = read_metrics = None  # type: ignore[assignment]


def test_pruning(
    tiny_config: PipelineConfig, network: Artifact, context: StageContext, tmp_path: Path
) -> None:
    computed: Computed = {}
    for case, settings in PRUNINGS.items():
        removed = 0.2 if "after" in case else 0.0
        stage = PrunedStage(Given(), settings, tiny_config.data, removed)
        parents = dict.fromkeys(stage.parents, network)
        folder = tmp_path / case
        folder.mkdir()
        computed |= flatten(case, stage.compute(folder, parents, context))
        checkpoint = folder / "checkpoint.safetensors"
        computed[f"{case}: structure"] = read_structure(checkpoint).key
        modules = load_checkpoint(checkpoint).modules()
        scales = [m.weight.tolist() for m in modules if isinstance(m, nn.BatchNorm2d)]
        kept = [f"{value:.3f}" for layer in scales for value in layer]
        computed[f"{case}: kept"] = hashlib.sha256(" ".join(kept).encode()).hexdigest()[:16]
    check("pruned", PrunedStage.version, computed)


class StandingTime:
    """Stands for the module `time`: a run takes no longer than it states."""

    def monotonic(self) -> float:
        return 0.0

    def perf_counter_ns(self) -> int:
        return 0


class Clock(NamedTuple):
    """A session whose runs take these times in turn, without taking any."""

    times_ms: Iterator[float]
    image_dtype: str = "uint8"

    def make_run(self, images: Any) -> Any:
        return lambda: next(self.times_ms)


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let runs take 20 us for a thousand parameters, give or take some, one after the other."""

    def open_session(engine: Any, model: nn.Module, *_: Any) -> Clock:
        mean_ms = sum(p.numel() for p in model.parameters()) / 5e4
        return Clock(cycle(mean_ms * (0.9 + 0.05 * ((7 * i) % 5)) for i in range(5)))

    monkeypatch.setattr(latency, "open_session", open_session)
    monkeypatch.setattr(timed_runs, "time", StandingTime())


@pytest.mark.usefixtures("times")
def test_measuring(
    tiny_config: PipelineConfig, network: Artifact, context: StageContext, tmp_path: Path
) -> None:
    config, size = LatencyConfig(engine="pytorch", max_seconds=60.0), (64, 96)
    student = replace(tiny_config.student, width=0.25)
    reference = ReferenceStage(student, 11, size, config, "cpu")
    timed = Artifact(tmp_path, reference.compute(tmp_path, {}, context), reused=False)
    check("reference", reference.version, flatten("student", timed.result))
    slower = timed._replace(result={**timed.result, "median_ms": 2 * timed.result["median_ms"]})
    alone = ArchitectureLatency(network.checkpoint, size, config, "cpu")
    beside = ArchitectureLatency(network.checkpoint, size, config, "cpu", reference)
    computed = flatten("alone", alone.compute(tmp_path, {}, context))
    computed |= flatten("beside", beside.compute(tmp_path, {"reference": slower}, context))
    check("latency", ArchitectureLatency.version, computed)


@pytest.mark.parametrize(
    ("version", "computed", "problem"),
    [
        (2, {"a": 1.0, "b": "x"}, ""),
        (2, {"a": 1.0 + 1e-9, "b": "x"}, ""),
        (2, {"a": 1.1, "b": "x"}, r"else \(a\) under the same version 2: .* Raise .* to 3, then"),
        (2, {"a": 1.0}, r"something else \(b\)"),
        (2, {"a": 1.0, "b": "x", "c": 0}, r"something else \(c\)"),
        (3, {"a": 1.1, "b": "x"}, "version 3 of pruned is not recorded yet"),
        (1, {"a": 1.0, "b": "x"}, "version 1, lower than the recorded 2"),
    ],
)
def test_a_change_without_a_new_version_is_told(
    version: int, computed: Computed, problem: str
) -> None:
    recorded = {"version": 2, "computes": {"a": 1.0, "b": "x"}}
    found = find_problem("pruned", version, computed, recorded)
    assert re.search(problem or "^$", found)


@pytest.mark.usefixtures("times")
def test_a_change_of_what_is_measured_is_noticed(
    network: Artifact, context: StageContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = ArchitectureLatency(
        network.checkpoint, (64, 96), LatencyConfig(engine="pytorch"), "cpu"
    )
    before = flatten("alone", stage.compute(tmp_path, {}, context))
    records = {"version": 3, "computes": before}
    time_runs = latency.time_runs

    def time_half(*arguments: Any) -> Any:
        timing = time_runs(*arguments)
        return replace(timing, median_ms=timing.median_ms / 2)

    monkeypatch.setattr(latency, "time_runs", time_half)
    after = flatten("alone", stage.compute(tmp_path, {}, context))
    assert "(alone: median_ms)" in find_problem("latency", 3, after, records)
