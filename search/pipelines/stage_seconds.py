"""Seconds of stages, predicted from timed steps and corrected by the stages that have run."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping

from search.config import StudyConfig
from search.pipelines.stage_tree import Task
from trainables.chain import Chain
from trainables.rehearsal import StageRate, find_width, name_family, name_kind
from trainables.stages import STAGES
from trainables.stages.stage import Work

CONSTANT_SHARE = 0.4
"""Fraction of a training step's time that pruning does not save.

Measured on CamVid: 0.38 + 0.62 times the share of the multiply-accumulates that are left.
"""

SPEED_EXPONENT = 0.8
"""A training on n places is expected to be n to this power as fast: 1.7 times on two, 5.3 on 8.

The same holds for n threads: 1.65 to 1.8 times on two (DeepLabV3+ on CamVid).
"""

PRIOR_SECONDS = 20.0
"""Seconds of imaginary stages that took exactly as long as predicted.

They keep a short first stage, of perhaps two seconds, from rescaling the predictions of all kinds.
"""


class StageSeconds:
    """Predicts the seconds of a stage, and learns from stages that have ended or are running.

    Each kind of stage has a correction factor. Until a stage of the kind has run, it is the common
    factor of all kinds, which is 1 at first.

    Args:
        config: Configuration of the study.
        rates: Rates by kind of stage (`trainables.rehearsal`). A kind that is missing takes the
            rate of another kind of its family.
        is_done: Function that says whether the last stage of a chain is in the store already.

    Attributes:
        is_done: The argument `is_done`.
    """

    def __init__(
        self,
        config: StudyConfig,
        rates: Mapping[str, StageRate],
        is_done: Callable[[Chain], bool] = lambda chain: False,
    ) -> None:
        self._config = config
        self.is_done = is_done
        self._rates = dict(rates)
        self._works: dict[str, Work] = {}
        self._noted: dict[str, tuple[str, float, float]] = {}  # kind, expected, seconds by node
        self._expected: dict[str, float] = defaultdict(float)  # by kind
        self._seconds: dict[str, float] = defaultdict(float)
        self._counts: dict[str, float] = defaultdict(float)

    def predict(self, task: Task) -> float:
        """Predict the seconds of a stage; 0 if it is in the store, or its kind is unknown."""
        if self.is_done(task.chain):
            return 0.0
        kind = name_kind(task.chain)
        if self._find_rate(kind, task.chain) is None:
            return self._seconds[kind] / self._counts[kind] if self._counts[kind] else 0.0
        return self.expect(task) * self.find_factor(kind)

    def expect(self, task: Task) -> float:
        """Predict the seconds of a stage without correction."""
        kind = name_kind(task.chain)
        rate = self._find_rate(kind, task.chain)
        if rate is None:
            return 0.0
        work = self._count_work(kind, task)
        steps = rate.seconds_per_step * work.num_steps * (task.share - task.begin)
        rest = rate.predict(work._replace(num_steps=0))
        speed = 1.0 if task.is_root else math.pow(task.places, SPEED_EXPONENT)
        return steps * _size(find_width(task.chain)) / _size(rate.width) / speed + rest

    def note(self, task: Task, seconds: float, share: float = 1.0) -> None:
        """Record the seconds of a stage, or of a part of it; replaces an earlier record.

        Args:
            task: The stage.
            seconds: Seconds that it took.
            share: Fraction of its work that was done in these seconds, above 0.
        """
        self.forget(task)
        kind, expected = name_kind(task.chain), self.expect(task) * share
        self._noted[task.node] = kind, expected, seconds
        self._add(kind, expected, seconds, share if share == 1 else 0.0)

    def forget(self, task: Task) -> None:
        """Remove the record of a stage, for example because it failed or was found in the store."""
        kind, expected, seconds = self._noted.pop(task.node, ("", 0.0, 0.0))
        if kind:
            self._add(kind, -expected, -seconds, 0.0)

    def _find_rate(self, kind: str, chain: Chain) -> StageRate | None:
        """Rate of a kind, else of another one of its family; None if none of them was timed."""
        if kind not in self._rates:
            family = name_family(chain)
            like = [name for name in self._rates if f"{name} ".startswith(f"{family} ")]
            if not like:
                return None
            self._rates[kind] = self._rates[like[0]]
        return self._rates[kind]

    def _add(self, kind: str, expected: float, seconds: float, count: float) -> None:
        self._expected[kind] += expected
        self._seconds[kind] += seconds
        self._counts[kind] += count

    def find_factor(self, kind: str) -> float:
        """Return the measured time of a kind relative to its rate.

        One more stage at the common factor counts in, so that a single stage does not decide.

        Args:
            kind: Name of the kind (`trainables.rehearsal.name_kind`).
        """
        known = [name for name in self._expected if self._expected[name] > 0]
        total = sum(self._expected[name] for name in known)
        taken = sum(self._seconds[name] for name in known)
        common = (taken + PRIOR_SECONDS) / (total + PRIOR_SECONDS)
        typical = self._rates[kind].predict(self._works[kind]) if kind in self._works else 0.0
        expected = self._expected[kind] + typical
        return (self._seconds[kind] + common * typical) / expected if expected > 0 else common

    def _count_work(self, kind: str, task: Task) -> Work:
        if kind not in self._works:
            step = task.chain[-1]
            work = STAGES[step.stage].count_work(step.settings, self._config.pipeline)
            self._works[kind] = work
        return self._works[kind]


def _size(width: float) -> float:
    """Time of a training step relative to that of the whole network.

    Args:
        width: Share of its channels that the network still has; multiply-accumulates go with the
            square of it.
    """
    return CONSTANT_SHARE + (1 - CONSTANT_SHARE) * width**2
