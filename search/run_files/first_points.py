"""Pipelines that a user wants to be tried first, from a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from search.config import StudyConfig
from search.space import SearchSpace
from trainables.pipeline_config import PipelineSettings


def read_first_points(path: Path, config: StudyConfig) -> tuple[PipelineSettings, ...]:
    """Read a JSON list of settings, such as `[{"sparsity_lambda": 1e-4, "pruning_ratio": 0.4}]`.

    What a point leaves out is what the space fixes, else what the dual-branch paper chose.

    Args:
        path: Of the file.
        config: Of the study; its space has to hold all points.

    Raises:
        ValueError: Names the point and what is wrong with it.
    """
    try:
        points = json.loads(path.read_text())
    except OSError as error:
        raise ValueError(f"points: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"points: {path} is not JSON: {error}") from None
    if not isinstance(points, list) or not points:
        raise ValueError(f"points: {path} must hold a list of points, each an object of settings")
    if len(points) > config.num_pipelines:
        raise ValueError(
            f"points: {path} must hold at most num_pipelines ({config.num_pipelines}) points, "
            f"got {len(points)}"
        )
    return tuple(
        _complete(point, config.space, f"points: {path}, point {number}")
        for number, point in enumerate(points, start=1)
    )


def _complete(point: Any, space: SearchSpace, place: str) -> PipelineSettings:
    if not isinstance(point, dict):
        raise ValueError(f"{place} must be an object of settings, got {point!r}")
    names = [entry.name for entry in fields(PipelineSettings)]
    unknown = [name for name in point if name not in names]
    if unknown:
        raise ValueError(
            f"{place}: unknown setting {', '.join(unknown)}; known are {', '.join(names)}"
        )
    try:
        settings = TypeAdapter(PipelineSettings).validate_python({**_fixed(space), **point})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{place}: {where} {first['msg']}, got {first['input']!r}") from None
    for name in space.find_outside(settings):
        raise ValueError(
            f"{place}: {name} must lie in space.{name} ({getattr(space, name)}), "
            f"got {getattr(settings, name)}"
        )
    return settings


def _fixed(space: SearchSpace) -> Mapping[str, Any]:
    """Values of the settings that are not searched, by name."""
    searched = space.distributions()
    middle = space.to_settings({})
    return {
        entry.name: getattr(middle, entry.name)
        for entry in fields(PipelineSettings)
        if entry.name not in searched
    }
