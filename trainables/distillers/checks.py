"""Checks that the settings of several distillers share."""

from __future__ import annotations

import math


def check_temperature(value: float) -> None:
    """Check that a temperature is finite and above 0."""
    if not 0 < value < math.inf:
        raise ValueError(f"temperature must be greater than 0, got {value}")


def check_weight(name: str, value: float) -> None:
    """Check that a weight is finite and at least 0."""
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be at least 0, got {value}")


def check_share(name: str, value: float) -> None:
    """Check that a fraction is in 0..1, 0 excluded."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} must lie within 0..1 (0 excluded), got {value}")


def split_layers(layers: str, teacher_layers: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Split the names of layers of both networks; empty if they are to be found automatically.

    Raises:
        ValueError: One network has more names than the other.
    """
    own, other = (
        tuple(filter(None, map(str.strip, t.split(",")))) for t in (layers, teacher_layers)
    )
    if len(own) != len(other):
        raise ValueError(
            "layers and teacher_layers must name equally many layers (or none, to have "
            f"them found), got {layers!r} and {teacher_layers!r}"
        )
    return own, other
