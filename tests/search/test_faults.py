"""Faults of every kind in one study: nothing is lost, nothing counted twice, and it goes on."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]

ATTEMPTS = {
    "teacher": 2,
    "dense": 2,
    "sparse-lambda-1e-05": 3,
    "pruned-lambda-1e-05-p-0.5-local": 2,
    "pruned-lambda-1e-05-p-0.3-local": 2,
    "distilled-0": 2,
    "distilled-1": 2,
    "distilled-2": 2,
    "distilled-3": 2,
}


@pytest.fixture(scope="module")
def ended(
    run_script: Callable[..., SimpleNamespace], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """One run of the script for all tests: Ray takes its time to start, and so does a worker."""
    folder = tmp_path_factory.mktemp("faults")
    return run_script("faulty_study.py", folder, timeout=590)


def test_workers_that_are_killed_in_every_stage_change_nothing(ended: SimpleNamespace) -> None:
    assert ended.answer["disturbed"] == ended.answer["undisturbed"]
    assert ended.answer["undisturbed"].keys() == {"0", "1", "3"}
    attempts = Counter((ended.folder / "attempts").read_text().splitlines())
    assert {name: attempts[name] for name in ATTEMPTS} == ATTEMPTS


def test_every_pipeline_has_one_outcome_and_every_stage_one_artefact(
    ended: SimpleNamespace,
) -> None:
    with (ended.folder / "run" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2", "3", "4"]
    states = [row["state"] for row in rows]
    assert states == ["complete", "complete", "failed", "complete", "failed"]
    folders = [path.name for path in (ended.folder / "run" / "stages").iterdir()]
    finished = Counter(name.partition("-")[0] for name in folders if name.count("-") == 1)
    partial = [name for name in folders if name.endswith(".partial")]
    # Teacher and dense student are one architecture here.
    whole = finished - Counter(name.partition("-")[0] for name in partial)
    assert whole == {
        "teacher": 1, "dense": 1, "sparse": 1, "pruned": 2, "reference": 1, "latency": 3,
        "distilled": 3,
    }  # fmt: skip
    assert all(name.startswith("distilled-") for name in partial)  # of those that failed
    assert not [name for name in folders if "damaged" in name]


def test_what_cannot_succeed_fails_with_its_reason_and_the_study_goes_on(
    ended: SimpleNamespace,
) -> None:
    outcomes = ended.answer["outcomes"]
    state, reason, _ = outcomes["2"]
    assert (state, reason.startswith("distilled: distilled needs more memory")) == ("failed", True)
    assert "CUDA out of memory" in reason
    assert "--pipeline.distil.batch-size; tried 2 times" in reason
    state, reason, _ = outcomes["4"]
    assert state == "failed"
    assert reason.startswith("distilled: TrainingDiverged: distilled: the loss is nan at step 0")
    assert "num_errors: 2 of 5 pipelines failed" in ended.errors
    assert "1 x failed: distilled: TrainingDiverged" in ended.errors


def test_the_user_is_told_why_a_stage_is_run_again(ended: SimpleNamespace) -> None:
    died = "the worker process died: killed, out of memory, or crashed (see ray.log)"
    again = "is run again in"
    assert f"teacher {again} 0.1 s: {died}" in ended.errors
    assert f"sparse lambda 1e-05 {again} 0.2 s: {died}" in ended.errors
    assert f"distilled 1 {again} 0.1 s: RuntimeError: no such kernel" in ended.errors
    line = next(line for line in ended.errors.splitlines() if line.startswith("distilled 3 is run"))
    assert "is not what was written" in line
