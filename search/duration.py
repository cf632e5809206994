"""Durations as people write them: 8h, 90m, 1h30m, or seconds."""

from __future__ import annotations

import math
import re

UNITS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0}
_PART = r"\d+(?:\.\d+)?"
_PATTERN = re.compile("".join(rf"(?:(?P<{unit}>{_PART}){unit})?" for unit in UNITS))


def parse_duration(text: str) -> float:
    """Read a duration.

    Args:
        text: Such as "8h", "90m", "1h30m", "1d", or a number of seconds.

    Returns:
        Seconds, above 0.

    Raises:
        ValueError: It is none, or is not above 0.
    """
    compact = "".join(text.lower().split())
    if re.fullmatch(_PART, compact):
        compact += "s"
    found = _PATTERN.fullmatch(compact)
    parts = {} if found is None else found.groupdict(default="0")
    seconds = math.fsum(float(parts[unit]) * size for unit, size in UNITS.items() if parts)
    if not 0 < seconds < math.inf:
        raise ValueError(f"a duration must be above 0, such as 8h, 90m, 1h30m or 600; got {text!r}")
    return seconds


def format_duration(seconds: float) -> str:
    """Format seconds as 1:05 or 2:01:05."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
