"""The numbers that a study exports: from its state, over HTTP, and in the Grafana dashboard."""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from search.config import StudyConfig
from search.on_ray import metrics as ray_metrics
from search.on_ray.metrics import (
    METRICS,
    STUDY_TAGS,
    Sample,
    StudyMetrics,
    measure_front,
    measure_stages,
)
from search.pipelines.confirmation import Confirmation
from search.pipelines.stage_use import StageUse
from search.pipelines.study import PipelineStudy
from search.run_files.progress import ProgressBoard
from trainables.artifacts.remote_folder import RemoteFolder
from trainables.artifacts.remote_stages import RemoteStages
from trainables.artifacts.store import ArtifactStore
from trainables.pipeline import StageResult

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("exported_study.py")
DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs" / "grafana_dashboard.json").read_text())
VARIABLES: list[dict[str, Any]] = DASHBOARD["templating"]["list"]
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
TARGETS: list[dict[str, str]] = [target for panel in PANELS for target in panel["targets"]]


@pytest.fixture
def board(config: StudyConfig, tmp_path: Path) -> ProgressBoard:
    study = PipelineStudy(replace(config, num_pipelines=6), tmp_path)
    for _ in range(4):
        study.ask()
    study.tell(
        0,
        "complete",
        result=StageResult(metrics={"miou": 0.5, "latency_ms": 50.0, "num_params": 5e5}),
    )
    study.tell(1, "failed", reason="TrainingDiverged: sparse: the loss is nan")
    study.tell(2, "stopped", reason="latency_ms 5 is above its limit 4")
    return ProgressBoard(study)


def pipelines(samples: list[Sample]) -> dict[str, float]:
    return {s.tags["state"]: s.value for s in samples if s.name == "segfront_pipelines"}


def test_state_of_a_study_in_numbers(board: ProgressBoard) -> None:
    samples = list(measure_front(board))
    assert Sample("segfront_best_miou", 0.5) in samples
    assert Sample("segfront_front_size", 1) in samples
    assert "segfront_hypervolume" not in {sample.name for sample in samples}  # no reference yet
    states = {"complete": 1, "failed": 1, "stopped": 1, "running": 1, "waiting": 2}
    assert pipelines(samples) == states
    board.reference = {"miou": 0.0, "latency_ms": 100.0, "num_params": 1e6}
    board.refresh()
    assert Sample("segfront_hypervolume", 0.125) in measure_front(board)


def test_study_that_has_just_begun_has_no_best_network(config: StudyConfig, tmp_path: Path) -> None:
    samples = list(measure_front(ProgressBoard(PipelineStudy(config, tmp_path))))
    assert "segfront_best_miou" not in {sample.name for sample in samples}
    assert pipelines(samples)["waiting"] == 8
    assert sum(pipelines(samples).values()) == 8


def test_stages_in_numbers() -> None:
    use = StageUse(
        computed=Counter(sparse=2),
        reused=Counter(sparse=3),
        spent={"sparse": 50.0},
        saved={"sparse": 60.0},
        teacher_cache=Counter(hit=4),
    )
    assert sorted(measure_stages(use, "cuda")) == sorted(
        [
            Sample("segfront_stages", 2, {"stage": "sparse", "outcome": "computed"}),
            Sample("segfront_stages", 3, {"stage": "sparse", "outcome": "reused"}),
            Sample("segfront_seconds_spent", 50.0, {"stage": "sparse", "device": "gpu"}),
            Sample("segfront_seconds_saved", 60.0, {"stage": "sparse", "device": "gpu"}),
            Sample("segfront_teacher_cache", 4, {"outcome": "hit"}),
            Sample("segfront_teacher_cache", 0, {"outcome": "built"}),
        ]
    )


class Recorder:
    """Stands for Ray's Gauge."""

    values: ClassVar[dict[str, list[Any]]] = {}

    def __init__(self, name: str, text: str, tag_keys: tuple[str, ...]) -> None:
        self.name, self.keys = name, tag_keys

    def set_default_tags(self, tags: dict[str, str]) -> Recorder:
        self.tags = tags
        return self

    def set(self, value: float, tags: dict[str, str]) -> None:
        assert set(self.tags | tags) == set(self.keys)
        self.values.setdefault(self.name, []).append((value, self.tags | tags))


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    monkeypatch.setattr(ray_metrics, "Gauge", Recorder)
    monkeypatch.setattr(Recorder, "values", {})
    return Recorder.values


def test_every_number_bears_recipe_and_run(
    board: ProgressBoard, gauges: dict[str, list[Any]], tmp_path: Path
) -> None:
    searcher: Any = SimpleNamespace(open_results=[], baselines={})
    metrics = StudyMetrics(board, searcher, tmp_path / "streets-1", "cpu")
    metrics.tick()
    metrics.tick()  # too soon
    assert gauges["segfront_front_size"] == [(1, {"recipe": "streets", "run": "streets-1"})]


def test_retrainings_are_counted_apart_from_the_pipelines(
    config: StudyConfig, gauges: dict[str, list[Any]], tmp_path: Path
) -> None:
    for name, seconds in (("distilled-1", 30.0), ("distilled-2", 20.0), ("distilled-3", 25.0)):
        (tmp_path / "stages" / name).mkdir(parents=True)
        content = {"result": {"seconds": seconds}, "files": {}}
        (tmp_path / "stages" / name / "result.json").write_text(json.dumps(content))
    study = PipelineStudy(replace(config, num_pipelines=1, confirm=2), tmp_path)
    study.ask()
    metrics = {"miou": 0.5, "latency_ms": 50.0, "num_params": 5e5}
    study.tell(
        0, "complete", result=StageResult(metrics=metrics, stages={"distilled": "distilled-1"})
    )
    confirmation = Confirmation(study, tmp_path)
    for number in (2, 3):
        task = confirmation.take()
        assert task is not None
        result = StageResult(
            metrics={"miou": 0.5}, network=f"distilled-{number}", seconds={"distilled": 1.0}
        )
        confirmation.finish(task.node, result)
    searcher: Any = SimpleNamespace(open_results=[], baselines={})
    StudyMetrics(ProgressBoard(study), searcher, tmp_path, "cpu", confirmation).tick()

    def read(name: str) -> dict[str, float]:
        return {tags["stage"]: value for value, tags in gauges[name]}

    assert read("segfront_stages") == {"distilled": 1, "retrained": 2}
    assert read("segfront_seconds_spent") == {"distilled": 30.0, "retrained": 45.0}
    assert "segfront_seconds_saved" not in gauges


def test_stages_in_storage_are_counted(
    board: ProgressBoard, gauges: dict[str, list[Any]], tmp_path: Path
) -> None:
    remote = RemoteStages(RemoteFolder((tmp_path / "storage").as_uri()))
    made = ArtifactStore(tmp_path / "node", remote).obtain("teacher", "1", lambda f: {"seconds": 9})
    searcher: Any = SimpleNamespace(
        open_results=[], baselines={"teacher": SimpleNamespace(stage=made.folder.name)}
    )
    StudyMetrics(board, searcher, tmp_path / "copy", "cpu", remote=remote).tick()
    assert [value for value, tags in gauges["segfront_seconds_spent"]] == [9.0]


def test_stages_that_keep_front_has_deleted_count_as_they_were_charged(
    config: StudyConfig, gauges: dict[str, list[Any]], tmp_path: Path
) -> None:
    study = PipelineStudy(replace(config, num_pipelines=2, keep="front"), tmp_path)
    metrics = {"miou": 0.5, "latency_ms": 50.0, "num_params": 5e5}
    for seconds in (20.0, 0.0):
        proposal = study.ask()
        assert proposal is not None
        stages, charged = {"sparse": "sparse-gone"}, {"sparse": seconds}
        result = StageResult(metrics=metrics, stages=stages, seconds=charged)
        study.tell(proposal.number, "complete", result=result)
    searcher: Any = SimpleNamespace(open_results=[], baselines={})
    exported = StudyMetrics(ProgressBoard(study), searcher, tmp_path, "cpu")
    exported.tick()
    assert exported.saved_seconds == 20.0
    assert [value for value, tags in gauges["segfront_seconds_spent"]] == [20.0]


def test_failure_is_logged_once_and_ends_nothing(
    board: ProgressBoard,
    gauges: dict[str, list[Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(ray_metrics, "SET_SECONDS", 0.0)
    baselines = {"teacher": SimpleNamespace(stage="teacher-gone")}
    searcher: Any = SimpleNamespace(open_results=[], baselines=baselines)
    metrics = StudyMetrics(board, searcher, tmp_path, "cpu")
    with caplog.at_level(logging.ERROR):
        metrics.tick()
        metrics.tick()
    assert [record.message for record in caplog.records] == [
        "the metrics could not be exported; the run continues"
    ]
    assert "teacher-gone" in caplog.text
    assert len(gauges["segfront_best_miou"]) == 2  # what does not need the store is there


@pytest.mark.ray
@pytest.mark.slow
def test_numbers_are_read_over_http(tmp_path: Path) -> None:
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    ended = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "streets-1")],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT), "RAY_metrics_report_interval_ms": "1000"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout.splitlines()[-1])
    assert answer["address"].startswith("127.0.0.1:")
    found = {name: {} for name in METRICS}
    for line in answer["lines"]:
        name, labels, value = re.fullmatch(r"ray_(\w+)\{(.*)\} (\S+)", line).groups()
        tags = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert (tags["recipe"], tags["run"]) == ("streets", "streets-1")
        found[name][tuple(tags[key] for key in METRICS[name].tags)] = float(value)
    assert found["segfront_best_miou"] == {(): 0.5}
    assert found["segfront_hypervolume"] == {(): 0.125}
    assert found["segfront_front_size"] == {(): 1}
    states = {"complete": 2, "failed": 0, "stopped": 0, "running": 1, "waiting": 1}
    assert found["segfront_pipelines"] == {(state,): n for state, n in states.items()}
    assert found["segfront_stages"] == {
        ("teacher", "computed"): 1, ("sparse", "computed"): 1, ("sparse", "reused"): 2
    }  # fmt: skip
    assert found["segfront_seconds_spent"] == {("teacher", "cpu"): 100, ("sparse", "cpu"): 20}
    assert found["segfront_seconds_saved"] == {("sparse", "cpu"): 40}
    assert found["segfront_teacher_cache"] == {("hit",): 0, ("built",): 0}


# --- the dashboard


def metrics_in(text: str) -> set[str]:
    return set(re.findall(r"\bray_\w+", text))


def test_dashboard_shows_every_metric_and_no_other() -> None:
    named = set().union(*(metrics_in(target["expr"]) for target in TARGETS))
    assert named == {f"ray_{name}" for name in METRICS}
    queries = [v["query"]["query"] for v in VARIABLES if v["type"] == "query"]
    assert all(metrics_in(query) <= named for query in queries)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["expr"][:60])
def test_expression_asks_for_labels_that_its_metrics_have(target: dict[str, str]) -> None:
    names = metrics_in(target["expr"])
    known = [{*STUDY_TAGS, *METRICS[name.removeprefix("ray_")].tags} for name in names]
    there = set.intersection(*known)
    grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
    asked = {label.strip() for group in grouped for label in group.split(",")}
    asked |= set(re.findall(r"[{,]\s*(\w+)=", target["expr"]))
    shown = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
    assert asked <= there
    assert shown <= asked
    # Nothing is summed away unseen: a sum over a label may hide what it adds up.
    inner = re.findall(r"max by \(([^)]*)\)", target["expr"])
    assert all(
        {label.strip() for label in group.split(",")} == there - {"recipe"} for group in inner
    )


def test_grafana_finds_what_it_needs() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert DASHBOARD["title"] == DASHBOARD["uid"] == "segfront"
    variables = {variable["name"] for variable in VARIABLES}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(DASHBOARD))) - {"__all"}
    assert used == variables == {"datasource", "run"}
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    cells: set[tuple[int, int]] = set()
    for panel in PANELS:
        assert panel["type"] in ("timeseries", "stat")
        assert panel["title"]
        assert panel["targets"]
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (place["x"] + column, place["y"] + row)
            for column in range(place["w"])
            for row in range(place["h"])
        }
        assert not own & cells, f"{panel['title']} lies over another panel"
        cells |= own
