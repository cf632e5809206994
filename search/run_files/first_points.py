"""Reads from a file the pipelines that the user wants to try first."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search.config import StudyConfig
from search.space import SearchSpace, find_nearest
from trainables.chain import build_chain, declare_all, flatten_chain, list_choosers, resolve_names


def read_first_points(path: Path, config: StudyConfig) -> tuple[dict[str, Any], ...]:
    """Read a JSON list of settings, such as `[{"sparsity_lambda": 1e-4, "pruning_ratio": 0.4}]`.

    Settings are named by their short names, or by full names such as "pruned.pruning_ratio" if two
    stages have a setting of the same name. A setting that a point leaves out takes the papers'
    value, or the nearest value in the space.

    Args:
        path: Path of the file.
        config: Configuration of the study; its space must contain all points.

    Raises:
        ValueError: The file or a point cannot be used; the message names the point and the reason.
    """
    try:
        points = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"points: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"points: {path} is not JSON: {error}") from None
    if not isinstance(points, list) or not points:
        raise ValueError(
            f"points: {path} must contain a list of points, each an object of settings"
        )
    if len(points) > config.num_pipelines:
        raise ValueError(
            f"points: {path} must contain at most num_pipelines ({config.num_pipelines}) points, "
            f"got {len(points)}"
        )
    return tuple(
        _complete(point, config, f"points: {path}, point {number}")
        for number, point in enumerate(points, start=1)
    )


def _complete(point: Any, config: StudyConfig, place: str) -> dict[str, Any]:
    if not isinstance(point, dict):
        raise ValueError(f"{place} must be an object of settings, got {point!r}")
    stages, space = config.pipeline.chain, config.space
    try:
        given = resolve_names(stages, {**_choosers(stages, space, point), **point})
        chain = build_chain(stages, {**_complete_from(stages, space, given), **given})
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from None
    chosen = flatten_chain(chain)
    for name in space.find_outside(chosen):
        raise ValueError(
            f"{place}: {name} must lie in space.{name} ({space.get_range(name)}), "
            f"got {chosen[name]}"
        )
    return chosen


def _choosers(
    stages: Sequence[str], space: SearchSpace, point: Mapping[str, Any]
) -> dict[str, Any]:
    """Choose the options, such as the distiller, that a point leaves out."""
    declared = declare_all(stages)
    return {
        name: find_nearest(space.get_range(name), declared[name].default)
        for name in list_choosers(stages)
        if name not in point and name.rpartition(".")[2] not in point
    }


def _complete_from(
    stages: Sequence[str], space: SearchSpace, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the settings that a point leaves out: defaults, or the nearest values in the space."""
    defaults = flatten_chain(build_chain(stages, given))
    return {
        name: find_nearest(space.get_range(name), value)
        for name, value in defaults.items()
        if name not in given
    }
