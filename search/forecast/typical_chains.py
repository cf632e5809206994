"""The chains that are timed before a study: between them, every kind of stage that it may run."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from search.config import StudyConfig
from trainables.chain import Chain, build_chain, list_choosers
from trainables.pipeline import build_baselines
from trainables.ranges import FloatRange, Space
from trainables.rehearsal import name_kind
from trainables.stages import STAGES


def choose_typical_chains(config: StudyConfig) -> list[Chain]:
    """Choose chains of the uncompressed networks and of pipelines from the middle of the space.

    Args:
        config: Of the study.

    Returns:
        As few as have every kind of stage among them (`trainables.rehearsal.name_kind`).
    """
    chosen: list[Chain] = []
    known: set[str] = set()
    for chain in (*build_baselines(config.pipeline).values(), *_pipelines(config)):
        kinds = {name_kind(chain[:length]) for length in range(1, len(chain) + 1)}
        if not kinds <= known:
            chosen.append(chain)
            known |= kinds
    return chosen


def _pipelines(config: StudyConfig) -> Iterator[Chain]:
    """A pipeline for every student and every choice among options, else from the middle."""
    stages, space = config.pipeline.chain, config.space
    ranges = space.list_ranges(stages)
    middle: dict[str, Any] = {name: _find_middle(values) for name, values in ranges.items()}
    roots = [name for name in ranges if not STAGES[name.partition(".")[0]].follows]
    names = [*roots, *list_choosers(stages)]
    for values in product(*(space.get_choices(name) or (middle[name],) for name in names)):
        chosen = {**middle, **dict(zip(names, values, strict=True))}
        yield build_chain(stages, space.complete(stages, chosen))


def _find_middle(values: Space) -> Any:
    """The middle of a range, the first of choices."""
    if not isinstance(values, FloatRange):
        return values[0]
    if values.step is not None:
        grid = values.values()
        return grid[len(grid) // 2]
    middle = (values.low * values.high) ** 0.5 if values.log else (values.low + values.high) / 2
    return float(middle)
