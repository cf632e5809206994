"""Durations as people write them."""

from __future__ import annotations

import pytest

from search.duration import format_duration, parse_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("8h", 28_800), ("90m", 5_400), ("1h30m", 5_400), ("45s", 45), ("600", 600),
        ("1d2h", 93_600), ("1.5h", 5_400), ("1 h 30 m", 5_400), ("2H", 7_200), ("0.5", 0.5),
    ],
)  # fmt: skip
def test_a_duration_is_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "0", "0h", "h", "8x", "-1h", "1h30", "m30", "nan", "1:30", "inf"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be above 0, such as 8h") as caught:
        parse_duration(text)
    assert repr(text) in str(caught.value)


def test_seconds_are_written_as_clocks_do() -> None:
    assert [format_duration(s) for s in (5, 65, 7265)] == ["0:05", "1:05", "2:01:05"]
