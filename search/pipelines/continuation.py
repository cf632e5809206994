"""Continuation: pipelines that start from a finished network instead of the unpruned one.

Pruning a fine-tuned network a little further costs less accuracy than pruning the unpruned one to
the same ratio in one step (`docs/trial_designs.md` has the measurement and the designs that were
compared). The stages declare whether they can be repeated: `Stage.follows`, `Stage.rising_setting`
and `Stage.kept_settings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import Any, NamedTuple

from search.config import StudyConfig
from search.space import SearchSpace
from trainables.chain import declare_all
from trainables.ranges import FloatRange
from trainables.stages import STAGES, NetworkStage

COARSE_LINKS = 3
"""Number of networks in a coarse chain, which shows the whole front early: a third, two thirds and
all of the way along the pruning ratios."""

LARGEST_COARSE_SHARE = 1 / 6
"""Largest fraction of a study's pipelines in its coarse chains. They are done again in small steps,
which end more accurate, so a short study goes without them (docs/trial_designs.md)."""


class Loop(NamedTuple):
    """The part of a pipeline that can be run again on its own result.

    Attributes:
        head: Stages before the loop.
        stages: Stages of the loop.
        rising: Setting that must rise each time, such as "pruned.pruning_ratio".
        kept: Settings that stay the same along a chain, such as "pruned.scope" and the student.
    """

    head: tuple[str, ...]
    stages: tuple[str, ...]
    rising: str
    kept: tuple[str, ...]

    @property
    def chosen(self) -> tuple[str, ...]:
        """Stages whose settings every pipeline chooses itself: its root and those of the loop."""
        return (*self.head[:1], *self.stages)


def find_loop(stages: Sequence[str]) -> Loop | None:
    """Find the stages that can be repeated; None if there are none.

    Args:
        stages: Stages of a pipeline, root first.
    """
    networks = [name for name in stages if issubclass(STAGES[name], NetworkStage)]
    for index, name in enumerate(stages):
        stage = STAGES[name]
        if stage.rising_setting and networks[-1] in stage.follows and networks[-1] != name:
            kept = [f"{name}.{setting}" for setting in stage.kept_settings]
            rising, root = f"{name}.{stage.rising_setting}", declare_all(stages[:1])
            return Loop(tuple(stages[:index]), tuple(stages[index:]), rising, (*kept, *root))
    return None


class Origins:
    """The finished pipelines from which others may continue.

    Only the best one of each value of the rising setting is kept, so that a choice among ten
    thousand pipelines takes as long as one among ten.

    Args:
        loop: Stages that are repeated.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._best: dict[tuple[Any, ...], dict[float, tuple[float, int]]] = {}

    def add(self, number: int, settings: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Add a pipeline that is complete; without a measured mIoU it is left out.

        Args:
            number: Number of its trial.
            settings: Its settings, "stage.setting" -> value.
            metrics: Its metrics by name.
        """
        if "miou" not in metrics or self._loop.rising not in settings:
            return
        like = self._best.setdefault(self._list_kept(settings), {})
        entry = (metrics["miou"], -number)
        rising = settings[self._loop.rising]
        like[rising] = max(entry, like.get(rising, entry))

    def choose(self, chosen: Mapping[str, Any]) -> int | None:
        """Choose the pipeline from which a new one continues.

        Candidates have the same kept settings and a lower rising setting. The one with the highest
        rising setting is chosen; among several, the most accurate; among equals, the first.

        Args:
            chosen: Settings of the new pipeline for its root and the stages of the loop.

        Returns:
            Number of the chosen pipeline; None to begin at the root.
        """
        like = self._best.get(self._list_kept(chosen), {})
        lower = [rising for rising in like if rising < chosen[self._loop.rising]]
        return -like[max(lower)][1] if lower else None

    def _list_kept(self, settings: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(settings.get(name) for name in self._loop.kept)


def plan_sweeps(
    loop: Loop,
    space: SearchSpace,
    first: Mapping[str, Any],
    num_pipelines: int,
    *,
    in_turn: bool = False,
) -> list[list[dict[str, Any]]]:
    """Plan the chains with which a study begins.

    There is a chain through all values of the rising setting for each choice of the kept settings.
    In a long study, a coarse chain of each choice may come before them. Those that do not fit into
    the study are left out.

    Args:
        loop: Stages that are repeated.
        space: Search space; its rising setting must be a grid.
        first: All other settings of the pipelines in a chain.
        num_pipelines: Number of pipelines of the study.
        in_turn: Whether the chains run one after another. There are no coarse chains then if the
            first whole chain is as short as all of them together, and so shows the front as early.

    Returns:
        Chains of pipelines; each pipeline is "stage.setting" -> value, and the rising setting
        ascends along a chain.
    """
    rising = space.get_range(loop.rising)
    values = rising.values() if isinstance(rising, FloatRange) else tuple(sorted(rising))
    if len(values) < 2:
        return []
    choices = [space.get_range(name) for name in loop.kept]
    discrete = [c if isinstance(c, tuple) else c.values()[:1] for c in choices]
    fixed = [{**first, **dict(zip(loop.kept, kept, strict=True))} for kept in product(*discrete)]
    steps = [values] * len(fixed)
    num_coarse = COARSE_LINKS * len(fixed)
    is_long = num_coarse <= LARGEST_COARSE_SHARE * num_pipelines
    fits = num_coarse + len(values) <= num_pipelines
    is_first_late = not in_turn or len(values) > num_coarse
    if is_first_late and is_long and fits and len(values) >= 2 * COARSE_LINKS:
        steps = [_coarsen(values)] * len(fixed) + steps
    sweeps: list[list[dict[str, Any]]] = []
    for chosen, ratios in zip(cycle(fixed), steps, strict=False):
        planned = sum(map(len, sweeps))
        if sweeps and planned + len(ratios) > num_pipelines:
            break
        sweeps.append([{**chosen, loop.rising: value} for value in ratios])
    return sweeps


def _coarsen(values: Sequence[float]) -> tuple[float, ...]:
    """Take evenly spaced values, the last one included."""
    places = (round(len(values) * link / COARSE_LINKS) for link in range(1, COARSE_LINKS + 1))
    return tuple(values[place - 1] for place in places)


def find_longest_chain(config: StudyConfig) -> int:
    """Number of pipelines in the longest chain with which a study begins; 1 if it has no chains."""
    loop = find_loop(config.pipeline.chain)
    if loop is None or not (config.continuation and config.begin_with_sweeps):
        return 1
    sweeps = plan_sweeps(loop, config.space, {}, config.num_pipelines)
    return min(config.num_pipelines, max(map(len, sweeps), default=1))
