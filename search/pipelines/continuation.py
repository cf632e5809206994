"""Continuation: pipelines that start from a finished network instead of the unpruned one.

Pruning a fine-tuned network a little further costs less accuracy than pruning the unpruned one to
the same ratio in one step (`docs/trial_designs.md` has the measurement and the designs that were
compared). The stages declare whether they can be repeated: `Stage.follows`, `Stage.rising_setting`
and `Stage.kept_settings`.
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
        head: Stages before the loop.
        stages: Stages of the loop.
        rising: Setting that must rise each time, such as "pruned.pruning_ratio".
        kept: Settings that stay the same along a chain, such as "pruned.scope".
    """

    head: tuple[str, ...]
    stages: tuple[str, ...]
    rising: str
    kept: tuple[str, ...]


class Finished(Protocol):
    """The fields that are needed of a pipeline from which another one may continue."""

    @property
    def state(self) -> str:
        """State of the pipeline: complete, failed, stopped or running."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings of the pipeline, "stage.setting" -> value."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Measured metrics by name."""


def find_loop(stages: Sequence[str]) -> Loop | None:
    """Find the stages that can be repeated; None if there are none.

    Args:
        stages: Stages of a pipeline, root first.
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
    """Choose the finished pipeline from which a new one continues.

    Candidates have the same kept settings and a lower rising setting. The one with the highest
    rising setting is chosen; among several, the most accurate; among equals, the first.

    Args:
        loop: Stages that are repeated.
        chosen: Settings of the new pipeline for the stages of the loop.
        pipelines: All known pipelines by number.

    Returns:
        Number of the chosen pipeline; None to begin at the root.
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
    """Plan the chains with which a study begins, one for each choice of the kept settings.

    Chains of different choices run side by side; those that do not fit into the study are left out.

    Args:
        loop: Stages that are repeated.
        space: Search space; its rising setting must be a grid.
        first: All other settings of the pipelines in a chain.
        num_pipelines: Number of pipelines of the study.

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
    sweeps: list[list[dict[str, Any]]] = []
    for kept in product(*discrete):
        planned = sum(map(len, sweeps))
        if sweeps and planned + len(values) > num_pipelines:
            break
        fixed = {**first, **dict(zip(loop.kept, kept, strict=True))}
        sweeps.append([{**fixed, loop.rising: value} for value in values])
    return sweeps
