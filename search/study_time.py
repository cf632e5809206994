"""The time of a running study: its budget, its spending, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from search.config import StudyConfig
from search.forecast.estimate import Estimate
from search.forecast.time_left import find_seconds_left
from search.pipelines.confirmation import Confirmation
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.stage_seconds import StageSeconds
from search.pipelines.study import PipelineStudy
from search.pipelines.time_budget import TimeBudget
from search.run_files.finished_stages import FinishedStages
from search.run_files.left_out import describe_left_out
from search.run_files.progress import ProgressBoard
from search.run_files.results_writer import ResultsWriter
from search.run_files.spending import Spending, Tariff
from trainables.artifacts.remote_stages import STAGES_FOLDER

LOOK_SECONDS = 2.0
WRITE_SECONDS = 30.0


def make_budget(
    study: PipelineStudy,
    run_dir: Path,
    estimate: Estimate | None,
    places: Places,
    stored: Collection[str] = (),
) -> TimeBudget:
    """Make the budget of a session of a study.

    Args:
        study: Has the limit, and the time that its sessions have worked.
        run_dir: Folder of the run.
        estimate: Estimate of the study; None without one.
        places: Places of the machines.
        stored: Names of the files in the storage of the stages.
    """
    config = study.config
    is_done = FinishedStages(
        config.pipeline,
        run_dir / STAGES_FOLDER,
        stored,
        roots_only=config.limit_seconds is None,
    )
    seconds = StageSeconds(config, {} if estimate is None else estimate.rates, is_done)
    return TimeBudget(
        seconds,
        limit=config.limit_seconds,
        worked=lambda: study.worked_seconds,
        starts_at_once=False,
        weigh=places.weigh,
        has_begun=is_done.has_begun,
    )


def make_tariff(config: StudyConfig, num_gpus: float) -> Tariff:
    """Say what is counted for a stage.

    Args:
        config: Has the price.
        num_gpus: That a stage holds.
    """
    if num_gpus:
        return Tariff(unit="GPU", price_per_hour=config.price_per_hour)
    return Tariff(unit="worker", price_per_hour=config.price_per_hour)


class StudyTime:
    """Keeps the times on a study's board and in its metadata up to date.

    Args:
        dispatcher: Dispatcher of the study.
        board: Board that shows the times.
        results: Results files, among them metadata.json.
        tariff: How hours are counted.
        places: Places of the machines.
        estimate: Estimate from before the study; None without one.
    """

    def __init__(
        self,
        dispatcher: Dispatcher,
        board: ProgressBoard,
        results: ResultsWriter,
        *,
        tariff: Tariff,
        places: Places,
        estimate: Estimate | None,
    ) -> None:
        self._dispatcher = dispatcher
        self._board = board
        self._results = results
        self._tariff = tariff
        self._places = places
        self._estimate = estimate
        self._looked = self._wrote = 0.0

    def tick(self, saved_seconds: float) -> None:
        """Bring board and metadata up to date, if it is time to.

        Args:
            saved_seconds: Seconds of the stages that pipelines had without computing them.
        """
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        self._look(saved_seconds)
        if now - self._wrote > WRITE_SECONDS:
            self._wrote = now
            self._write()

    def finish(self, saved_seconds: float, confirmation: Confirmation) -> None:
        """Take down what a session has spent, and what it had no time for.

        Args:
            saved_seconds: As for `tick`.
            confirmation: Retrainings of the front.
        """
        self._look(saved_seconds)
        if not (self._dispatcher.is_out_of_time or self._dispatcher.budget.is_used_up):
            self._write()
            return
        known = [baseline.name for baseline in self._results.baselines]
        measured = {*self._dispatcher.baselines, *known}
        self._write(describe_left_out(self._dispatcher.study, confirmation, measured))

    def _look(self, saved_seconds: float) -> None:
        study = self._dispatcher.study
        study.running_seconds = self._dispatcher.budget.running_seconds
        spent = study.spent_seconds + study.running_seconds
        saved = saved_seconds * self._places.units_of_training
        self._board.spending = Spending(
            tariff=self._tariff, spent_seconds=spent, saved_seconds=saved
        )
        if self._estimate is not None:
            left = find_seconds_left(self._dispatcher, self._estimate.forecast, self._places)
            self._board.expected = left, time.monotonic()

    def _write(self, left_out: Iterable[str] = ()) -> None:
        study, spending = self._dispatcher.study, self._board.spending
        estimate = self._estimate
        content: Mapping[str, Any] = {
            "worked_seconds": round(study.worked_seconds, 1),
            "limit_seconds": study.config.limit_seconds,
            "estimated_seconds": None if estimate is None else round(estimate.seconds, 1),
            **({} if spending is None else spending.to_json()),
            "left_out": [*(estimate.changes if estimate else ()), *left_out],
        }
        self._results.write_time(content)
