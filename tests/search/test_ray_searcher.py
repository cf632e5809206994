"""The searcher without a running Ray: what Tune would ask and tell."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.config import StudyConfig
from search.ray_searcher import PipelineSearcher
from search.ray_session import allot
from search.study import PipelineStudy

BASELINE = {
    "name": "dense",
    "model": "dual_branch",
    "miou": 0.6,
    "latency_ms": 9.0,
    "latency_p95_ms": 10.0,
    "num_params": 1000,
    "macs": 5000,
    "stage": "dense-1",
}
METRICS = {"miou": 0.5, "latency_ms": 5.0, "num_params": 500.0, "iou/road": 0.9}


@pytest.fixture
def searcher(config: StudyConfig, tmp_path: Path) -> PipelineSearcher:
    study = PipelineStudy(replace(config, num_pipelines=3), tmp_path)
    return PipelineSearcher(
        study, max_concurrent=2, explain_error=lambda trial_id: f"{trial_id}: the worker died"
    )


def train_baselines(searcher: PipelineSearcher) -> None:
    for role in ("teacher", "dense"):
        assert searcher.suggest(role) == {"role": role, "label": role}
    assert searcher.suggest("too early") is None
    for role in ("teacher", "dense"):
        searcher.on_trial_complete(role, {"outcome": "complete", "baseline": BASELINE})


def test_baselines_come_first_then_pipelines_as_places_get_free(searcher: PipelineSearcher) -> None:
    train_baselines(searcher)
    assert searcher.baselines["dense"].num_params == 1000
    first: Any = searcher.suggest("a")
    assert first["label"] == "pipeline 0"
    assert set(first["settings"]) >= {"sparsity_lambda", "pruning_ratio", "temperature", "lr"}
    assert isinstance(searcher.suggest("b"), dict)
    assert searcher.suggest("c") is None
    parts = {"metrics": METRICS, "stages": {"dense": "dense-1"}, "seconds": {"dense": 0.0}}
    searcher.on_trial_complete("a", {"outcome": "complete", **parts})
    record = searcher.study.records[0]
    assert (record.state, record.metrics, record.stages) == ("complete", METRICS, parts["stages"])
    assert isinstance(searcher.suggest("c"), dict)
    assert searcher.suggest("d") is None
    searcher.on_trial_complete("b", {"outcome": "failed", "reason": "TrainingDiverged: nan"})
    assert searcher.study.records[1].reason == "TrainingDiverged: nan"
    assert searcher.suggest("d") == searcher.FINISHED
    searcher.on_trial_complete("c", None, error=True)
    assert searcher.study.records[2].reason == "c: the worker died"
    assert searcher.study.num_unfinished == 0


def test_a_worker_that_ends_without_an_outcome_has_failed(searcher: PipelineSearcher) -> None:
    train_baselines(searcher)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"progress": {"stage": "sparse"}})
    assert searcher.study.records[0].state == "failed"
    assert searcher.study.records[0].reason == "a: the worker died"


def test_without_a_baseline_nothing_is_tried(searcher: PipelineSearcher) -> None:
    for role in ("teacher", "dense"):
        searcher.suggest(role)
    searcher.on_trial_complete("teacher", {"outcome": "failed", "reason": "TrainingDiverged: nan"})
    assert searcher.suggest("a") == searcher.FINISHED
    assert searcher.baseline_errors == {"teacher": "TrainingDiverged: nan"}
    assert searcher.study.records == {}


def test_cores_are_divided_among_the_pipelines(config: StudyConfig) -> None:
    two = allot(config, num_cpus=2, num_gpus=0, node_cpus=2)
    assert (two.device, two.num_cpus, two.num_gpus, two.max_concurrent) == ("cpu", 1, 0, 2)
    many = allot(config, num_cpus=32, num_gpus=0, node_cpus=32)  # 8 pipelines
    assert (many.num_cpus, many.max_concurrent) == (4, 8)
    cluster = allot(config, num_cpus=64, num_gpus=0, node_cpus=4)
    assert (cluster.num_cpus, cluster.max_concurrent) == (4, 16)
    assert allot(replace(config, max_concurrent=1), 2, 0, 2).max_concurrent == 1


def test_gpus_are_used_when_there(config: StudyConfig) -> None:
    one = allot(config, num_cpus=16, num_gpus=1, node_cpus=16)
    assert (one.device, one.num_cpus, one.num_gpus, one.max_concurrent) == ("cuda", 16, 1, 1)
    quarter = allot(replace(config, gpus_per_trial=0.25), 16, 1, 16)
    assert (quarter.num_cpus, quarter.num_gpus, quarter.max_concurrent) == (4, 0.25, 4)
    assert allot(replace(config, gpus_per_trial=0), 16, 1, 16).device == "cpu"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gpus_per_trial": 1.0}, "gpus_per_trial must be at most 0 here, got 1"),
        ({"cpus_per_trial": 9}, "cpus_per_trial must be at most 2 here, got 9"),
    ],
)
def test_more_than_there_is_is_named(
    changes: dict[str, Any], message: str, config: StudyConfig
) -> None:
    with pytest.raises(ValueError, match=message):
        allot(replace(config, **changes), num_cpus=2, num_gpus=0, node_cpus=2)
