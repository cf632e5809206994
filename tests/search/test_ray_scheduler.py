"""Successive halving over two objectives of a trainable that knows nothing of segfront."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search.on_ray.scheduler import FrontHalvingScheduler


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("max_concurrent", [0, 3])
def test_only_the_best_go_on_from_where_they_paused(
    run_script: Callable[..., SimpleNamespace], tmp_path: Path, max_concurrent: int
) -> None:
    answer = run_script("halved_curves.py", tmp_path, str(max_concurrent), timeout=200).answer
    lengths = Counter(trial["length"] for trial in answer["trials"])
    assert answer["num_errors"] == 0
    assert lengths.keys() == {1, 3, 9}
    assert lengths.total() == 12
    assert lengths[9] <= lengths[9] + lengths[3] <= 12 // 3 + 1
    # No step was lost at a pause, none was taken twice.
    assert all(t["steps"] == list(range(1, t["length"] + 1)) for t in answer["trials"])
    # Optuna hears that the others were pruned.
    assert Counter(answer["states"]) == {"COMPLETE": lengths[9], "PRUNED": 12 - lengths[9]}


class FakeController:
    """As much of Tune's controller as a scheduler asks."""

    def __init__(self, *, is_over: bool) -> None:
        self.search_alg = SimpleNamespace(is_finished=lambda: is_over)
        self.trials: list[Any] = []
        self.stopped: list[str] = []

    def get_live_trials(self) -> list[Any]:
        return [trial for trial in self.trials if trial.trial_id not in self.stopped]

    def stop_trial(self, trial: Any) -> None:
        self.stopped.append(trial.trial_id)


def scheduler(**changes: Any) -> FrontHalvingScheduler:
    arguments = {"rungs": (1, 3), "reduction_factor": 2, **changes}
    return FrontHalvingScheduler({"gain": "maximize", "cost": "minimize"}, **arguments)


def report(
    halving: FrontHalvingScheduler,
    controller: FakeController,
    name: str,
    gain: float,
    cost: float,
    *,
    at: int = 1,
    **more: Any,
) -> str:
    trial = next((t for t in controller.trials if t.trial_id == name), None)
    if trial is None:
        trial = SimpleNamespace(trial_id=name, status=Trial.RUNNING)
        controller.trials.append(trial)
    result = {"gain": gain, "cost": cost, "training_iteration": at, **more}
    decision = halving.on_trial_result(controller, trial, result)
    trial.status = Trial.PAUSED if decision == TrialScheduler.PAUSE else Trial.RUNNING
    return decision


def test_one_that_is_among_the_best_does_not_pause() -> None:
    halving, controller = scheduler(), FakeController(is_over=False)
    assert report(halving, controller, "a", 0.5, 1) == "PAUSE"
    assert report(halving, controller, "b", 0.9, 1) == "CONTINUE"
    assert halving.choose_trial_to_run(controller) is None


def test_one_that_waits_goes_on_when_its_rung_grows_and_it_is_saved() -> None:
    halving, controller = scheduler(), FakeController(is_over=False)
    report(halving, controller, "a", 0.9, 1)
    report(halving, controller, "b", 0.5, 1)
    (first, second) = controller.trials
    first.status = Trial.RUNNING  # it is still being saved
    assert halving.choose_trial_to_run(controller) is None
    first.status = Trial.PAUSED
    assert halving.choose_trial_to_run(controller) is first
    first.status = Trial.RUNNING
    assert halving.choose_trial_to_run(controller) is None
    assert not controller.stopped
    assert second.status == Trial.PAUSED


def test_one_that_passes_several_rungs_at_once_counts_at_each() -> None:
    halving, controller = scheduler(), FakeController(is_over=False)
    assert report(halving, controller, "a", 0.9, 1, at=5) == "PAUSE"
    assert report(halving, controller, "b", 0.5, 1) == "PAUSE"  # "a" has the place of two
    assert report(halving, controller, "b", 0.5, 1) == "CONTINUE"  # no new rung


def test_last_result_of_a_trial_pauses_nothing() -> None:
    halving, controller = scheduler(), FakeController(is_over=False)
    assert report(halving, controller, "a", 0.9, 1, done=True) == "CONTINUE"


def test_those_that_wait_when_all_is_over_are_stopped() -> None:
    halving, controller = scheduler(reduction_factor=4), FakeController(is_over=True)
    for name in "abc":
        report(halving, controller, name, 0.5, 1)
    assert halving.choose_trial_to_run(controller) is None
    assert controller.stopped == ["a", "b", "c"]


def test_the_last_in_order_makes_room_where_all_wait_and_no_other_may_come() -> None:
    halving, controller = scheduler(reduction_factor=9), FakeController(is_over=False)
    report(halving, controller, "a", 0.9, 1)
    report(halving, controller, "b", 0.2, 5)
    report(halving, controller, "c", 0.1, 1, at=3)  # has come further
    halving.choose_trial_to_run(controller)
    assert controller.stopped == ["b"]


def test_what_is_not_finite_is_stopped_and_said(caplog: pytest.LogCaptureFixture) -> None:
    halving, controller = scheduler(), FakeController(is_over=False)
    assert report(halving, controller, "a", float("nan"), 1) == "STOP"
    assert "trial a is stopped: not finite" in caplog.text


def test_missing_metric_is_named() -> None:
    halving, controller = scheduler(time_attr="epoch"), FakeController(is_over=False)
    with pytest.raises(ValueError, match=r"trial a reports no epoch, but .*'gain'"):
        report(halving, controller, "a", 0.5, 1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rungs": (3, 1)}, r"rungs must ascend, got \[3, 1\]"),
        ({"rungs": ()}, "num_rungs must be at least 1, got 0"),
        ({"reduction_factor": 1}, "reduction_factor must be greater than 1, got 1"),
    ],
)
def test_bad_values_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scheduler(**changes)


def test_directions_are_checked() -> None:
    wrong: Any = {"gain": "max"}
    with pytest.raises(ValueError, match=r"directions must be maximize or minimize, got .*max"):
        FrontHalvingScheduler(wrong, rungs=(1,))
