"""A Tune searcher for a study: every Tune trial is one stage, which the dispatcher chooses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher
from ray.tune.utils import flatten_dict

from search.pipelines.dispatcher import Dispatcher
from search.pipelines.retries import Failure
from search.pipelines.stage_tree import Task
from trainables.context import Progress
from trainables.pipeline import StageResult
from trainables.ray_pipeline import describe_task


class PipelineSearcher(Searcher):  # type: ignore[misc,unused-ignore]
    """Passes the dispatcher's stages to Tune and Tune's outcomes to the dispatcher.

    Its whole state is in the dispatcher's study, so there is nothing for Tune to save.

    Args:
        dispatcher: Dispatcher that decides which stage runs next.
        explain_error: Function that returns why the worker of a Tune trial (by id) failed.
        on_change: Called whenever a stage has started or ended.
        should_stop: Returns True if the search must end although stages are left.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        *,
        explain_error: Callable[[str], Failure],
        on_change: Callable[[], None] = lambda: None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__()
        self._dispatcher = dispatcher
        self._explain_error = explain_error
        self._on_change = on_change
        self._should_stop = should_stop
        self._tasks: dict[str, Task] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return the next stage to run, None to wait, or FINISHED if there are no more stages."""
        task = None if self._should_stop() else self._dispatcher.take()
        if task is not None:
            self._tasks[trial_id] = task
            self._on_change()
            return describe_task(
                task.chain,
                task.label,
                task.share,
                task.fine_tuning_seed,
                places=task.places,
                is_ahead=task.is_ahead,
            )
        if self._should_stop() or self._dispatcher.is_over:
            return self.FINISHED  # type: ignore[no-any-return,unused-ignore]
        return None

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Pass the outcome of a stage to the dispatcher."""
        task = self._tasks.pop(trial_id, None)
        if task is None or self._dispatcher.problem:
            return
        flat: dict[str, Any] = flatten_dict(result or {})
        outcome = None if error else flat.get("outcome")
        try:
            if outcome == "complete":
                self._dispatcher.finish(task, read_result(flat))
            elif outcome:
                self._dispatcher.fail(task, str(flat.get("reason", "")))
            else:
                self._dispatcher.retry(task, self._explain_error(trial_id))
            self._on_change()
        except Exception as problem:  # Tune would treat it as the trial's error and continue
            self._dispatcher.problem = problem

    def note_start(self, trial_id: str) -> None:
        """Pass on that a stage has got its machine."""
        task = self._tasks.get(trial_id)
        if task is not None:
            self._dispatcher.budget.begin(task.node)

    def note_progress(self, trial_id: str, progress: Progress) -> None:
        """Pass on how far a stage is; what is reported of a stage before it does not count."""
        task = self._tasks.get(trial_id)
        if task is not None and progress.stage == task.stage and progress.loss is not None:
            self._dispatcher.budget.advance(task.node, progress.step / progress.num_steps)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the study's journal holds everything."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing: the study's journal holds everything."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def read_result(flat: dict[str, Any]) -> StageResult:
    """Read the result of a stage from its trial's last report, whose keys are joined by "/"."""
    sections: dict[str, dict[str, Any]] = {}
    for name in ("metrics", "stages", "seconds"):
        prefix = f"{name}/"
        found = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
        sections[name] = found
    network, elapsed = str(flat.get("network", "")), float(flat.get("elapsed", 0.0))
    return StageResult(**sections, network=network, elapsed=elapsed)
