"""Faults of every kind in one study: nothing is lost, nothing counted twice, and it goes on."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def ended(
    run_script: Callable[..., SimpleNamespace], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """One run of the script for all tests: Ray takes its time to start, and so does a worker."""
    folder = tmp_path_factory.mktemp("faults")
    return run_script("faulty_study.py", folder, timeout=590)


def test_faults_in_every_stage_change_nothing(ended: SimpleNamespace) -> None:
    assert ended.answer["disturbed"] == ended.answer["undisturbed"]
    assert ended.answer["undisturbed"].keys() == set("0135678")
    met = (ended.folder / "met").read_text().splitlines()
    assert sorted(met) == sorted(ended.answer["planned"])


def test_every_pipeline_has_one_outcome_and_every_stage_one_artefact(
    ended: SimpleNamespace,
) -> None:
    with (ended.folder / "run" / "trials.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == list("012345678")
    states = [row["state"] for row in rows]
    assert [number for number, state in enumerate(states) if state == "failed"] == [2, 4]
    assert states.count("complete") == 7
    folders = [path.name for path in (ended.folder / "run" / "stages").iterdir()]
    finished = Counter(name.partition("-")[0] for name in folders if name.count("-") == 1)
    partial = [name for name in folders if name.endswith(".partial")]
    # Teacher and dense student are one architecture here.
    whole = finished - Counter(name.partition("-")[0] for name in partial)
    assert whole == {
        "teacher": 1, "dense": 1, "sensitivity": 1, "sparse": 1, "pruned": 2, "reference": 1,
        "latency": 3, "distilled": 7,
    }  # fmt: skip
    assert all(name.startswith("distilled-") for name in partial)  # of those that failed
    # The state that was damaged is set aside; no finished stage is.
    (aside,) = [name for name in folders if "damaged" in name]
    assert aside.startswith("distilled-")
    assert ".partial.damaged-" in aside


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
    assert "num_errors: 2 of 9 pipelines failed" in ended.errors
    assert "1 x failed: distilled: TrainingDiverged" in ended.errors


def test_the_user_is_told_why_a_stage_is_run_again(ended: SimpleNamespace) -> None:
    died = "the worker process died: killed, out of memory, or crashed (see ray.log)"
    again = "is run again in"
    assert f"teacher {again} 0.1 s: {died}" in ended.errors
    assert f"sparse lambda 1e-05 {again} 0.2 s: {died}" in ended.errors
    assert f"distilled 1 {again} 0.1 s: RuntimeError: no such kernel" in ended.errors
    for start, reason in {
        "distilled 5": died,
        "distilled 6": "No space left on device",
        "distilled 7": "distilled needs more memory than there is on cpu",
        "distilled 8": "no progress for 20 s at step 2 of 3",
    }.items():
        lines = [line for line in ended.errors.splitlines() if line.startswith(f"{start} {again}")]
        assert any(reason in line for line in lines), start
    # Which of the stages that read the images finds that distilled 3 has damaged them is by chance.
    lines = [line for line in ended.errors.splitlines() if again in line]
    assert any("is not what was written" in line for line in lines)


def test_the_user_is_told_what_workers_log(ended: SimpleNamespace) -> None:
    told = ended.errors.splitlines()
    for start, end in {
        "distilled 5: ": "; the stage starts anew",
        "": "; rebuilding it",  # whichever opens the cache next and does not die after it
    }.items():
        assert any(line.startswith(start) and line.endswith(end) for line in told), ended.errors
    assert any("caching " in line and "MiB of disk" in line for line in told)
