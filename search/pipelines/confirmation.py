"""Fine-tunes the members of the front again with other seeds, to see how much of it is luck."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from search.pipelines.front import find_front
from search.pipelines.retrainings import (
    CONFIRMATION_FILE,
    Retraining,
    read_retrainings,
    write_retrainings,
)
from search.pipelines.stage_tree import Task
from search.pipelines.stage_use import PipelineStages
from search.pipelines.study import PipelineStudy
from trainables.pipeline import StageResult
from trainables.stages import STAGES

RETRAINED = "retrained"
"""Name of a retraining's stage in the exported metrics."""


class Confirmation:
    """Fine-tunes every member of the front `confirm` more times, once the search is over.

    Only the seed of the fine-tuning changes: the order of the data, the augmentation and dropout.
    The pruned network stays the same, and with it latency, parameters and MACs. The mIoUs therefore
    differ by the noise of the fine-tuning alone, not by that of the stages before it. Every member
    gets the same seeds; they begin after the pipelines' own.

    The Optuna study learns nothing of the retrainings. confirmation.csv is written after every
    outcome, and the next session continues from it. Like a failed pipeline, a failed retraining is
    not run again unless its row is removed.

    Args:
        study: Study whose front is retrained.
        run_dir: Folder of the run.
        kept_out: Numbers of trials that an earlier answer has kept out of the front.

    Attributes:
        retrainings: Retrainings that have ended, by trial and seed.

    Raises:
        ValueError: confirmation.csv is damaged.
    """

    def __init__(self, study: PipelineStudy, run_dir: Path, kept_out: Collection[int] = ()) -> None:
        self._study = study
        self._kept_out = kept_out
        self._path = run_dir / CONFIRMATION_FILE
        self.retrainings = {
            (entry.trial, entry.seed): entry for entry in read_retrainings(self._path)
        }
        self._running: dict[str, tuple[int, int]] = {}
        self._members: tuple[int, ...] | None = None
        self._started = self._last_ended = 0.0
        self._num_ended = 0

    @property
    def members(self) -> tuple[int, ...]:
        """Trial numbers of the front; empty until every pipeline of the study has ended."""
        if self._study.num_unfinished:
            return ()
        if self._members is None:
            records, objectives = self._study.records.values(), self._study.config.objectives
            front = find_front(records, objectives, self._kept_out)
            self._members = tuple(record.number for record in front)
        return self._members

    @property
    def num_wanted(self) -> int:
        """Number of retrainings to run; 0 until every pipeline of the study has ended."""
        return self._study.config.confirm * len(self.members)

    @property
    def num_left(self) -> int:
        """Number of retrainings that have not ended, running ones included."""
        return sum(key not in self.retrainings for key in self._wanted())

    @property
    def stages(self) -> list[PipelineStages]:
        """Stage and seconds of each retraining, without the pipelines' own fine-tunings."""
        done = [entry for entry in self.retrainings.values() if entry.state == "complete"]
        return [({RETRAINED: entry.network}, {RETRAINED: entry.seconds}) for entry in done]

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds left, from the retrainings of this session; None before the first."""
        if not self._num_ended:
            return None
        each = (self._last_ended - self._started) / self._num_ended
        return max(0.0, self.num_left * each - (time.monotonic() - self._last_ended))

    def take(self) -> Task | None:
        """Return the next retraining; None if none is left, or if the search is not over yet."""
        known = {*self.retrainings, *self._running.values()}
        key = next((key for key in self._wanted() if key not in known), None)
        if key is None:
            return None
        number, seed = key
        node = f"{RETRAINED} {number} seed {seed}"
        self._started = self._started or time.monotonic()
        self._running[node] = key
        chain = self._study.get_chain(number)
        accurate = [i for i, step in enumerate(chain) if "miou" in STAGES[step.stage].reveals]
        chain = chain[: accurate[-1] + 1]
        return Task(node, chain, f"confirm {number} seed {seed}", fine_tuning_seed=seed)

    def finish(self, node: str, result: StageResult) -> None:
        """Record the result of a retraining.

        Args:
            node: Node of the task that was handed out.
            result: Result of the retraining; it counts as failed if its mIoU is not finite.
        """
        miou = result.metrics.get("miou")
        if miou is None or not math.isfinite(miou):
            self.fail(node, f"miou is {miou}, not a finite number")
            return
        number, seed = self._running[node]
        self._note(
            node,
            Retraining(
                trial=number,
                seed=seed,
                state="complete",
                miou=miou,
                network=result.network,
                seconds=sum(result.seconds.values()),
            ),
        )

    def retry(self, node: str) -> bool:
        """Make a retraining available again after a failed attempt.

        Args:
            node: Node of a task that was handed out here or by the stage tree.

        Returns:
            True if the task is a retraining.
        """
        return self._running.pop(node, None) is not None

    def fail(self, node: str, reason: str) -> None:
        """Record that a retraining has failed.

        Args:
            node: Node of the task that was handed out.
            reason: Reason in one line.
        """
        number, seed = self._running[node]
        self._note(node, Retraining(trial=number, seed=seed, state="failed", reason=reason))

    def _wanted(self) -> Iterator[tuple[int, int]]:
        """Yield (trial, seed), seed by seed, so that an early end affects all members equally."""
        first = self._study.config.pipeline.seed + 1
        for seed in range(first, first + self._study.config.confirm):
            for number in self.members:
                yield number, seed

    def _note(self, node: str, retraining: Retraining) -> None:
        key = self._running.pop(node)
        self.retrainings[key] = retraining
        self._num_ended += 1
        self._last_ended = time.monotonic()
        write_retrainings(self._path, self.retrainings.values())
