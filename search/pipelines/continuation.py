"""Walking along the front: pipelines that go on from a finished network instead of the root.

A network that was pruned and trained again bears a little more pruning better than the unpruned one
bears all of it at once (`docs/trial_designs.md` has the measurement, and the designs that were
compared). Which stages can be repeated is what they declare: `Stage.follows`,
`Stage.rising_setting` and `Stage.kept_settings`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple, Protocol

from search.space import SearchSpace
from trainables.ranges import FloatRange
from trainables.stages import STAGES, NetworkStage


class Loop(NamedTuple):
    """The part of a pipeline that can be run again on its own result.

    Attributes:
        head: Stages before it.
        stages: Its stages.
        rising: Setting that must rise each time, such as "pruned.pruning_ratio".
        kept: Settings that stay as they are along a chain, such as "pruned.scope".
    """

    head: tuple[str, ...]
    stages: tuple[str, ...]
    rising: str
    kept: tuple[str, ...]


class Finished(Protocol):
    """What must be known of a pipeline that another one may go on from."""

    @property
    def state(self) -> str:
        """complete, failed, stopped or running."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it chose, "stage.setting" -> value."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """What was measured."""


def find_loop(stages: Sequence[str]) -> Loop | None:
    """Find the stages that can be repeated; None if there are none.

    Args:
        stages: Of a pipeline, root first.
    """
    networks = [name for name in stages if issubclass(STAGES[name], NetworkStage)]
    for index, name in enumerate(stages):
        stage = STAGES[name]
        if stage.rising_setting and networks[-1] in stage.follows and networks[-1] != name:
            kept = tuple(f"{name}.{setting}" for setting in stage.kept_settings)
            rising = f"{name}.{stage.rising_setting}"
            return Loop(tuple(stages[:index]), tuple(stages[index:]), rising, kept)
    return None


def choose_origin(
    loop: Loop, chosen: Mapping[str, Any], pipelines: Mapping[int, Finished]
) -> int | None:
    """Choose the finished pipeline that a new one goes on from.

    Of those that agree in what is kept, it is the one whose rising setting is the next lower one;
    of several, the most accurate; of equal ones, the first.

    Args:
        loop: What is repeated.
        chosen: What the new pipeline chooses for the stages of the loop.
        pipelines: All that are known, by number.

    Returns:
        Its number; None to begin at the root.
    """
    candidates = [
        (pipeline.settings[loop.rising], pipeline.metrics["miou"], -number)
        for number, pipeline in pipelines.items()
        if pipeline.state == "complete"
        and "miou" in pipeline.metrics
        and pipeline.settings.get(loop.rising, chosen[loop.rising]) < chosen[loop.rising]
        and all(pipeline.settings.get(name) == chosen[name] for name in loop.kept)
    ]
    return -max(candidates)[2] if candidates else None


def plan_sweeps(
    loop: Loop, space: SearchSpace, first: Mapping[str, Any], num_pipelines: int
) -> list[list[dict[str, Any]]]:
    """Plan the chains that a study begins with: one along each choice of what is kept.

    Chains of different choices run side by side; those that do not fit into the study are left out.

    Args:
        loop: What is repeated.
        space: Where pipelines are looked for; its rising setting must be a grid.
        first: What the pipelines of a chain choose besides.
        num_pipelines: Length of the study.

    Returns:
        Chains of pipelines, each "stage.setting" -> value, ascending.
    """
    rising = space.get_range(loop.rising)
    values = rising.values() if isinstance(rising, FloatRange) else tuple(sorted(rising))
    if len(values) < 2:
        return []
    choices = [space.get_range(name) for name in loop.kept]
    discrete = [c if isinstance(c, tuple) else c.values()[:1] for c in choices]
    sweeps: list[list[dict[str, Any]]] = []
    for kept in product(*discrete):
        planned = sum(map(len, sweeps))
        if sweeps and planned + len(values) > num_pipelines:
            break
        fixed = {**first, **dict(zip(loop.kept, kept, strict=True))}
        sweeps.append([{**fixed, loop.rising: value} for value in values])
    return sweeps
