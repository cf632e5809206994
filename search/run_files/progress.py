"""Shows the progress of a study: a live table, or a line every few seconds."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.duration import format_duration
from search.pipelines.confirmation import Confirmation
from search.pipelines.front import find_front, hypervolume_fraction
from search.pipelines.study import PipelineStudy
from search.run_files.spending import Spending
from trainables.context import Progress

LINE_SECONDS = 15.0


@dataclass(kw_only=True, slots=True)
class Activity:
    """A stage that runs now.

    Attributes:
        label: Name of the stage.
        detail: Short form of its settings.
        progress: Last progress that it reported.
        started: Value of `time.monotonic` at its start.
    """

    label: str
    detail: str = ""
    progress: Progress | None = None
    started: float = field(default_factory=time.monotonic)


class ProgressBoard:
    """The state of a study in numbers.

    Args:
        study: Study whose records are read; it is not modified.
        confirmation: Retrainings of its front, also only read; None if there are none.
        kept_out: Numbers of trials that an earlier answer has kept out of the front.

    Attributes:
        activities: Running stages by any key; the caller keeps them up to date.
        reference: Reference point of the hypervolume, once it is known.
        spending: Hours and money spent so far; None if they are not counted.
        expected: Predicted seconds left, and the moment (`time.monotonic`) of the prediction. None:
            estimate from the pipelines that have finished.
    """

    def __init__(
        self,
        study: PipelineStudy,
        confirmation: Confirmation | None = None,
        kept_out: Collection[int] = (),
    ) -> None:
        self.study = study
        self._kept_out = kept_out
        self._confirmation = confirmation
        self.activities: dict[str, Activity] = {}
        self.reference: Mapping[str, float] = {}
        self.spending: Spending | None = None
        self.expected: tuple[float, float] | None = None
        self._finished_before = study.config.num_pipelines - study.num_unfinished
        self._search_started: float | None = None
        self._last_finished: float | None = None
        self._num_unfinished = study.num_unfinished
        self.best_miou: float | None = None
        self.front_size = 0
        self.hypervolume: float | None = None
        self.states: Counter[str] = Counter()
        self.refresh()

    def refresh(self) -> None:
        """Update the numbers after a trial has begun or ended."""
        records = list(self.study.records.values())
        self.states = Counter(record.state for record in records)
        usable = [record for record in records if record.number not in self._kept_out]
        metrics = [record.metrics for record in usable if record.state == "complete"]
        if self._num_unfinished != self.study.num_unfinished:
            self._num_unfinished = self.study.num_unfinished
            self._last_finished = time.monotonic()
        if self.study.num_running and self._search_started is None:
            self._search_started = time.monotonic()
        self.front_size = len(find_front(usable, self.study.config.objectives))
        self.best_miou = max((entry["miou"] for entry in metrics), default=None)
        if self.reference:
            self.hypervolume = hypervolume_fraction(metrics, self.reference)

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds left, from the pipelines that finished in this session.

        None before the first of them. Once no pipeline is left, the estimate is made in the same
        way from the retrainings of the front.
        """
        left = self.study.num_unfinished
        if left and self.expected is not None:
            seconds, moment = self.expected
            return max(0.0, seconds - (time.monotonic() - moment))
        if self._confirmation is not None and self._confirmation.num_left:
            return self._confirmation.seconds_left
        finished = self.study.config.num_pipelines - left - self._finished_before
        if not left:
            return 0.0
        if not finished or self._search_started is None or self._last_finished is None:
            return None
        per_pipeline = (self._last_finished - self._search_started) / finished
        return max(0.0, left * per_pipeline - (time.monotonic() - self._last_finished))

    def counts(self) -> str:
        """Return the number of trials in each state, as text."""
        states, running = self.states, self.study.num_running
        waiting = self.study.num_unfinished - running
        parts = [f"{states['complete']} complete", f"{running} running", f"{waiting} waiting"]
        parts += [f"{states[name]} {name}" for name in ("failed", "stopped") if states[name]]
        if self._confirmation is not None and self._confirmation.num_wanted:
            wanted = self._confirmation.num_wanted
            parts.append(f"{wanted - self._confirmation.num_left} of {wanted} retrained")
        return ", ".join(parts)

    def numbers(self) -> str:
        """Return best accuracy, size of the front, hypervolume and times, as text."""
        best = "-" if self.best_miou is None else f"{self.best_miou:.3f}"
        volume = "-" if self.hypervolume is None else f"{self.hypervolume:.3f}"
        left = self.seconds_left
        return (
            f"best mIoU {best} | front {self.front_size} | hypervolume {volume} | "
            f"elapsed {format_duration(self.study.worked_seconds)} | "
            f"left {'-' if left is None else format_duration(left)}"
            + (f" | {self.spending.describe()}" if self.spending else "")
        )

    def line(self) -> str:
        """Return the whole state in one line."""
        now = "; ".join(
            f"{entry.label} {_fraction(entry.progress):.0%}"
            for entry in self.snapshot()
            if entry.progress is not None
        )
        return f"{self.counts()} | {self.numbers()}" + (f" | {now}" if now else "")

    def snapshot(self) -> list[Activity]:
        """Return a copy of the running stages, which another thread can iterate over."""
        return list(self.activities.values())

    def render(self) -> Group:
        """Draw the live table."""
        config = self.study.config
        heading = Text(f"segfront {config.recipe}", style="bold")
        heading.append(f"  {config.num_pipelines} pipelines: {self.counts()}", style="not bold")
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in ("running", "settings", "stage", "", "steps", "loss", "for"):
            table.add_column(column, no_wrap=True)
        for entry in self.snapshot():
            stage, bar, steps, loss = (
                "starting",
                ProgressBar(total=1, completed=0, width=20),
                "",
                "",
            )
            if entry.progress is not None:
                stage = entry.progress.stage
                bar = ProgressBar(total=1, completed=_fraction(entry.progress), width=20)
                if entry.progress.num_steps > 1:
                    steps = f"{entry.progress.step}/{entry.progress.num_steps}"
                if entry.progress.loss is not None:
                    loss = f"{entry.progress.loss:.3f}"
            spent = format_duration(time.monotonic() - entry.started)
            table.add_row(entry.label, entry.detail, stage, bar, steps, loss, spent)
        return Group(heading, Text(self.numbers()), table)


class ProgressDisplay:
    """Shows a progress board: live in a terminal, otherwise as a line every 15 seconds.

    Args:
        board: Board to show.
        console: Console to print to.
    """

    def __init__(self, board: ProgressBoard, console: Console) -> None:
        self._board = board
        self._console = console
        self._live: Live | None = None
        if console.is_terminal:
            self._live = Live(
                get_renderable=board.render,
                console=console,
                refresh_per_second=2,
                transient=True,
                redirect_stdout=False,
                redirect_stderr=False,
            )
        self._printed = 0.0

    def __enter__(self) -> ProgressDisplay:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()
        self._console.print(self._board.line(), highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        """Print a message for the user above the live table."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def tick(self) -> None:
        """Print a line if the last one is at least 15 seconds old; nothing in a terminal."""
        now = time.monotonic()
        if self._live is None and now - self._printed >= LINE_SECONDS:
            self._printed = now
            self._console.print(self._board.line(), highlight=False, soft_wrap=True)


def _fraction(progress: Progress) -> float:
    return progress.step / max(1, progress.num_steps)
