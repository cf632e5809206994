"""Tune's searcher over the study: every Tune trial is one stage, every outcome is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher
from ray.tune.utils import flatten_dict

from search.pipelines.confirmation import Confirmation
from search.pipelines.retries import Failure, ObstacleError, Retries
from search.pipelines.rungs import Rungs
from search.pipelines.stage_tree import Ending, StageTree, Task
from search.pipelines.study import BEHIND_FRONT, Outcome, PipelineStudy
from trainables.pipeline import BASELINES, PATH, Baseline, StageResult

OPEN_PIPELINES_PER_PLACE = 2


class PipelineSearcher(Searcher):  # type: ignore[misc,unused-ignore]
    """Asks the study for pipelines and hands their stages to Tune, as soon as they may run.

    A stage that several pipelines share is run once; a pipeline that waits for one holds no place.
    A stage whose worker failed is run again after a while, by another process, as often as
    `search.pipelines.retries` says; then the pipelines that need it have failed, and the search
    goes on. When all pipelines have ended come the retrainings of the front, if any are wanted.
    Its state is the study and the artefacts on disk, so there is nothing for Tune to save.

    Args:
        study: Is asked and told.
        max_concurrent: Most stages at a time, teacher and dense student apart.
        explain_error: Tune trial id -> why its worker failed.
        on_change: Called after every start and outcome.
        on_retry: Called with a line for the user when a stage is to be run again.
        should_stop: Whether the search is to end although there is more to do.
        confirmation: Retrainings of the front; none without it.

    Attributes:
        baselines: Those that are trained, by role.
        baseline_errors: Why a baseline failed, by role; the search ends then.
        problem: What makes it useless to go on, such as a full disk, or what went wrong when an
            outcome was taken; the search ends then, and the pipelines that are on their way are
            left for the next session.
    """

    def __init__(
        self,
        study: PipelineStudy,
        *,
        max_concurrent: int,
        explain_error: Callable[[str], Failure],
        on_change: Callable[[], None] = lambda: None,
        on_retry: Callable[[str], None] = lambda text: None,
        should_stop: Callable[[], bool] = lambda: False,
        confirmation: Confirmation | None = None,
    ) -> None:
        super().__init__()
        self.study = study
        self.baselines: dict[str, Baseline] = {}
        self.baseline_errors: dict[str, str] = {}
        self.problem: Exception | None = None
        self._tree = StageTree(study.config.rungs)
        self._rungs = Rungs(study)
        self._confirmation = confirmation
        self._max_concurrent = max_concurrent
        self._explain_error = explain_error
        self._on_change = on_change
        self._on_retry = on_retry
        self._should_stop = should_stop
        self._retries = Retries()
        self._tasks: dict[str, Task] = {}
        self._is_exhausted = False

    @property
    def open_results(self) -> list[StageResult]:
        """What the pipelines that are on their way have brought so far."""
        return [self._tree.get_result(number) for number in self._tree.open_pipelines]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the stage to run next, None to wait, FINISHED when there is nothing left."""
        if self.baseline_errors or self.problem or self._should_stop():
            return self.FINISHED  # type: ignore[no-any-return,unused-ignore]
        self._go_on()
        running = sum(task.stage not in BASELINES for task in self._tasks.values())
        task = None
        if running < self._max_concurrent:
            task = self._next_task() or self._next_retraining()
        if task is not None:
            self._tasks[trial_id] = task
            self._on_change()
            settings = asdict(task.settings) if task.settings else {}
            return {
                "stage": task.stage,
                "label": task.label,
                "settings": settings,
                "share": task.share,
                "fine_tuning_seed": task.fine_tuning_seed,
            }
        is_busy = self._tasks or self._retries.is_waiting or self._tree.open_pipelines
        return None if is_busy or not self._is_exhausted else self.FINISHED

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take the outcome of a stage; tell the study of every pipeline that ends with it."""
        task = self._tasks.pop(trial_id, None)
        if task is None or self.problem:
            return
        try:
            self._take_outcome(trial_id, task, result, error=error)
        except Exception as problem:  # Tune would take it for one of the trial and go on
            self.problem = problem

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the study's journal holds everything."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing: the study's journal holds everything."""

    def __getstate__(self) -> dict[str, Any]:
        return {}

    def _take_outcome(
        self, trial_id: str, task: Task, result: dict[str, Any] | None, *, error: bool
    ) -> None:
        flat: dict[str, Any] = flatten_dict(result or {})
        outcome = None if error else flat.get("outcome")
        if outcome == "complete":
            endings = self._finish(task, self._read(task, flat))
        elif outcome:
            endings = self._fail(task, str(flat.get("reason", "")))
        else:
            endings = self._retry(task, self._explain_error(trial_id))
        if not self.baseline_errors:
            self._tell(endings)
        self._on_change()

    def _next_task(self) -> Task | None:
        """Take what the tree offers; add pipelines until it offers something."""
        most_open = OPEN_PIPELINES_PER_PLACE * self._max_concurrent
        while True:
            task = self._tree.take()
            if task is not None and task.stage == PATH[-1] and self._give_up(task):
                continue
            is_full = len(self._tree.open_pipelines) - len(self._rungs.paused) >= most_open
            if task is not None or is_full or "dense" not in self.baselines:
                return task
            proposal = self.study.ask(self._tree.trained_lambdas)
            if proposal is None:
                self._is_exhausted = True
                return None
            self._tree.add(proposal.number, proposal.settings)
            self._tell(self._tree.settle())
            if proposal.number in self._tree.open_pipelines:
                self._stop_if_hopeless(proposal.number)

    def _next_retraining(self) -> Task | None:
        """Take what is left of the confirmation, once no pipeline is open any more."""
        if not self._is_exhausted:
            return None
        if not self._tasks and not self._retries.is_waiting:
            self._stop_paused()
        # A resumed search has no open pipeline while its baselines are found again.
        is_early = self._tree.open_pipelines or len(self.baselines) < len(BASELINES)
        return None if is_early or self._confirmation is None else self._confirmation.take()

    def _finish(self, task: Task, result: StageResult) -> list[Ending]:
        """Note what a stage brought; returns the pipelines that are through by it."""
        if self._confirmation is not None and task.fine_tuning_seed is not None:
            self._confirmation.finish(task.node, result)
            return []
        endings = self._tree.finish(task.node, result)
        if task.stage == "pruned":
            for number in self._tree.waiting_for(task.node):
                self._stop_if_hopeless(number)
        elif task.share < 1:
            for number in self._tree.waiting_for(task.node):
                metrics = self._tree.get_result(number).metrics
                self._rungs.pause(number, task.share, metrics)
                self.study.report(number, metrics)
        return endings

    def _retry(self, task: Task, failure: Failure) -> list[Ending]:
        """Have a stage run again whose worker failed, or note that it was tried often enough."""
        seconds = self._retries.postpone(task.node, failure.fault)
        if seconds is not None:
            self._on_retry(f"{task.label} is run again in {seconds:g} s: {failure.reason}")
            return []
        if failure.fault == "surroundings":
            self.problem = ObstacleError(f"{task.label}: {failure.reason}")
            return []
        times = self._retries.count(task.node)
        return self._fail(task, f"{failure.reason}; tried {times} times")

    def _fail(self, task: Task, reason: str) -> list[Ending]:
        """Note that a stage has failed; returns the pipelines that cannot go on."""
        if self._confirmation is not None and task.fine_tuning_seed is not None:
            self._confirmation.fail(task.node, reason)
            return []
        if task.stage in BASELINES:
            self.baseline_errors[task.stage] = reason
        return self._tree.fail(task.node, f"{task.stage}: {reason}")

    def _go_on(self) -> None:
        """Let stages run again, and pipelines go on that belong to the best part of their rung."""
        for node in self._retries.take_due():
            if self._confirmation is None or not self._confirmation.retry(node):
                self._tree.retry(node)
        while (number := self._rungs.promote()) is not None:
            if number in self._tree.open_pipelines:
                self._tree.promote(number)

    def _stop_paused(self) -> None:
        """End the pipelines that nothing can promote any more."""
        endings = []
        for number in self._tree.open_pipelines:
            reason = f"{BEHIND_FRONT} at {self._rungs.paused[number]:.0%} of its distillation"
            endings.append(Ending(number, self._tree.drop(number), reason))
        self._tell(endings, "stopped")

    def _stop_if_hopeless(self, number: int) -> None:
        """End a pipeline whose pruned network is known and cannot enter the front any more."""
        metrics = self._tree.get_result(number).metrics
        if "latency_ms" not in metrics:
            return
        ceiling = max(baseline.miou for baseline in self.baselines.values())
        reason = self.study.find_obstacle(metrics, ceiling)
        if reason:
            self._tell([Ending(number, self._tree.drop(number), reason)], "stopped")

    def _give_up(self, task: Task) -> bool:
        """End the pipelines that have become hopeless while they waited to be distilled further."""
        for number in self._tree.waiting_for(task.node):
            self._stop_if_hopeless(number)
        if self._tree.waiting_for(task.node):
            return False
        self._tree.retry(task.node)  # should a later pipeline need it
        return True

    def _read(self, task: Task, flat: Mapping[str, Any]) -> StageResult:
        if task.stage not in BASELINES:
            names = ("metrics", "stages", "seconds")
            return StageResult(**{name: _section(flat, name) for name in names})
        baseline = Baseline(**_section(flat, "baseline"))
        self.baselines[task.stage] = baseline
        return StageResult(stages={task.stage: baseline.stage}, seconds={task.stage: 0.0})

    def _tell(self, endings: Sequence[Ending], failure: Outcome = "failed") -> None:
        if not endings:
            return
        with self.study.batch():
            for ending in endings:
                self._rungs.paused.pop(ending.number, None)
                self.study.tell(
                    ending.number,
                    failure if ending.reason else "complete",
                    reason=ending.reason,
                    metrics=ending.result.metrics,
                    stages=ending.result.stages,
                    seconds=ending.result.seconds,
                )


def _section(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
