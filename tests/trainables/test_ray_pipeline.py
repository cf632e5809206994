"""What a worker reports to Tune."""

from __future__ import annotations

from typing import Any

import pytest

from trainables import ray_pipeline
from trainables.context import Progress
from trainables.ray_pipeline import Reporter


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    given: list[dict[str, Any]] = []
    monkeypatch.setattr(ray_pipeline.tune, "report", given.append)
    return given


def test_reports_come_once_a_second_but_none_of_an_accuracy_is_dropped(
    reports: list[dict[str, Any]],
) -> None:
    report = Reporter()
    report(Progress("dense", 0, 1))
    report(Progress("dense", 3, 300, loss=2.0))
    report(Progress("dense", 6, 300, loss=1.5))
    report(Progress("dense", 1, 1, miou=0.25))
    report(Progress("latency", 0, 1))
    # The curves go on from step to step of the training, whatever else is reported.
    assert [entry["timesteps_total"] for entry in reports] == [0, 6, 6]
    assert [entry["progress"]["stage"] for entry in reports] == ["dense", "dense", "latency"]
    assert reports[1]["progress"]["miou"] == 0.25
    assert report.step == 6
