"""How many stages run at a time, and how many of these places a stage takes."""

from __future__ import annotations

from dataclasses import dataclass

from search.pipelines.stage_tree import Task
from trainables.stages import STAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """How many stages the machines hold at a time; a place is what one stage needs.

    Attributes:
        count: Largest number of stages of pipelines at a time; the trainings of the uncompressed
            networks do not count.
        exclusive: Largest number of stages at a time that need a whole device.
        of_root: Number of places that the training of an uncompressed network takes.
        units: Number of GPUs (on CPUs: of processes) that a stage without training holds.
        units_of_training: Number of GPUs (or processes) per place of a pipeline's training.
        units_of_root: Number of GPUs (or processes) that the training of an uncompressed network
            holds, on all its places together.
        most_per_training: Largest number of places for one training of a pipeline; it gets more
            than one only if other stages leave places free.
        uses_threads: Whether a training uses several places with threads of one process, not with
            several processes. The training of an uncompressed network then uses all places, so
            nothing may run beside it.
    """

    count: int
    exclusive: int = 1
    of_root: int = 1
    units: float = 1.0
    units_of_training: float = 1.0
    units_of_root: float = 1.0
    most_per_training: int = 1
    uses_threads: bool = False

    @property
    def runs_in_turn(self) -> bool:
        """Whether chains of pipelines run one after another, each training on all places."""
        return self.count == 1 or (self.uses_threads and self.most_per_training >= self.count)

    def weigh(self, task: Task) -> float:
        """Return the number of GPUs (on CPUs: of processes) that a stage holds."""
        if task.is_root:
            return self.units_of_root
        if task.is_ahead or not STAGES[task.stage].trains:
            return self.units
        return self.units_of_training * task.places

    def is_filled_by(self, task: Task) -> bool:
        """Whether a stage leaves no place for others: the training of an uncompressed network."""
        return task.is_root and self.of_root >= self.count

    def runs_alone(self, task: Task) -> bool:
        """Whether nothing may run beside a stage."""
        return task.is_root and self.uses_threads
