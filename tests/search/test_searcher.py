"""The adapter between Tune and the dispatcher: what Tune would ask and tell."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from search.config import StudyConfig
from search.on_ray.searcher import PipelineSearcher
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.retries import Failure
from search.pipelines.study import PipelineStudy
from trainables.ray_pipeline import is_root, read_chain


@pytest.fixture
def dispatcher(config: StudyConfig, tmp_path: Path) -> Dispatcher:
    return Dispatcher(PipelineStudy(replace(config, num_pipelines=3), tmp_path), Places(count=2))


def adapt(dispatcher: Dispatcher, **options: Any) -> PipelineSearcher:
    options = {"explain_error": lambda trial_id: Failure(f"{trial_id} died"), **options}
    return PipelineSearcher(dispatcher, **options)


def report(searcher: PipelineSearcher, trial_id: str, **parts: Any) -> None:
    searcher.on_trial_complete(trial_id, {"outcome": "complete", **parts})


def train_baselines(searcher: PipelineSearcher) -> None:
    costs = {"miou": 0.6, "num_params": 1000, "macs": 5000}
    latency = {"latency_ms": 9.0, "latency_p95_ms": 10.0}
    for name in ("teacher", "dense"):
        suggestion: Any = searcher.suggest(name)
        assert (suggestion["label"], suggestion["share"]) == (name, 1.0)
        assert is_root(suggestion)
        report(searcher, name, metrics=costs, stages={name: f"{name}-1"}, network=f"{name}-1")
        assert searcher.suggest("timed")["label"] == f"latency {name}"  # type: ignore[index]
        report(searcher, "timed", metrics=latency)
    assert searcher.suggest("scanned")["label"] == "sensitivity dense"  # type: ignore[index]
    report(searcher, "scanned")


def test_a_trial_is_a_stage_in_plain_values(dispatcher: Dispatcher) -> None:
    searcher = adapt(dispatcher)
    train_baselines(searcher)
    assert dispatcher.baselines["dense"].num_params == 1000
    assert dispatcher.baselines["dense"].stage == "dense-1"
    suggestion: Any = searcher.suggest("a")
    plain = {"label": str, "share": float, "fine_tuning_seed": type(None), "places": int}
    assert set(suggestion) == {"chain", "is_ahead", *plain}
    assert all(isinstance(suggestion[name], kind) for name, kind in plain.items())
    assert [name for name, _ in suggestion["chain"]] == ["dense", "sparse"]
    assert all(
        isinstance(value, str | float) for _, own in suggestion["chain"] for value in own.values()
    )
    assert read_chain(suggestion) == dispatcher._running[next(iter(dispatcher._running))].chain


def test_outcomes_reach_the_dispatcher(dispatcher: Dispatcher) -> None:
    searcher = adapt(dispatcher)
    train_baselines(searcher)
    searcher.suggest("a")
    searcher.on_trial_complete("a", {"outcome": "failed", "reason": "TrainingDiverged: nan"})
    assert dispatcher.study.records[0].reason == "sparse: TrainingDiverged: nan"
    searcher.suggest("b")
    for result, error in (({"progress": {"stage": "sparse"}}, False), (None, True)):
        searcher.on_trial_complete("b", result, error=error)
        assert dispatcher._retries.is_waiting  # without an outcome it has failed
    assert not dispatcher.is_over


def test_somebody_may_end_the_search(dispatcher: Dispatcher) -> None:
    wanted: list[int] = []
    searcher = adapt(dispatcher, should_stop=lambda: bool(wanted))
    train_baselines(searcher)
    assert isinstance(searcher.suggest("a"), dict)
    wanted.append(15)
    assert searcher.suggest("b") == searcher.FINISHED


def test_an_error_of_the_driver_ends_the_search(dispatcher: Dispatcher) -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    searcher = adapt(dispatcher)
    train_baselines(searcher)
    searcher.suggest("a")
    searcher._on_change = Mock(side_effect=error)
    report(searcher, "a", metrics={}, stages={"sparse": "sparse-1"}, seconds={"sparse": 2.0})
    assert dispatcher.problem is error
    assert searcher.suggest("b") == searcher.FINISHED
    assert [record.state for record in dispatcher.study.records.values()] == ["running"]
