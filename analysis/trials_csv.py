"""Read trials.csv, the table with one row per trial."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

STATES = ("complete", "failed", "stopped", "running")
TEXT_COLUMNS = ("state", "reason", "started_at", "finished_at")
MISSING = ("", "nan", "NaN", "None")

Setting = float | str | bool


class ResultsError(ValueError):
    """A results file is missing, broken or does not fit the others; the message names it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One row of trials.csv.

    Attributes:
        run: Name of the run's folder.
        number: Number of the trial in its study.
        state: "complete", "failed", "stopped" or "running".
        reason: Why it ended, "" where it is complete.
        settings: What was tried, by name without "config/".
        measures: Every measured number by column name, objectives among them; no NaN.
        stages: Folder below stages/ by stage, in the order in which they ran.
        finished_at: ISO 8601, "" if not known.
        elapsed_hours: Working time from the study's start to the end of this trial, if known.
    """

    run: str
    number: int
    state: str
    reason: str
    settings: Mapping[str, Setting]
    measures: Mapping[str, float]
    stages: Mapping[str, str]
    finished_at: str
    elapsed_hours: float | None


def read_trials(
    path: Path, *, run: str, objectives: Sequence[str]
) -> tuple[tuple[Trial, ...], list[str]]:
    """Read every trial of a trials.csv.

    Args:
        path: The file.
        run: Name of the run, carried by every trial.
        objectives: Columns that must hold numbers where they are filled.

    Returns:
        The trials in the order of the file, and the names of the columns.

    Raises:
        ResultsError: If the file is missing or a cell cannot be what its column says.
    """
    if not path.is_file():
        raise ResultsError(f"{path}: missing (is {path.parent} a run folder?)")
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        if not columns:
            raise ResultsError(f"{path}: empty, not even a header")
        for column in ("trial", "state"):
            if column not in columns:
                raise ResultsError(f"{path}: column {column!r} is missing, has {columns}")
        trials = []
        for row in reader:
            if None in row or None in row.values():
                raise ResultsError(
                    f"{path}, line {reader.line_num}: not the {len(columns)} cells of the header"
                )
            trials.append(_parse_row(row, f"{path}, line {reader.line_num}", run, objectives))
    return tuple(trials), columns


def _is_plain_name(text: str) -> bool:
    """Say whether a text names something in a folder and cannot lead out of it."""
    return text not in ("", ".", "..") and not set(text) & set("/\\\0")


def _parse_row(row: Mapping[str, str], place: str, run: str, objectives: Sequence[str]) -> Trial:
    if row["state"] not in STATES:
        raise ResultsError(f"{place}: column 'state' is {row['state']!r}, not one of {STATES}")
    settings: dict[str, Setting] = {}
    measures: dict[str, float] = {}
    stages: dict[str, str] = {}
    for column, cell in row.items():
        if column in TEXT_COLUMNS or cell in MISSING:
            continue
        if column.startswith("config/"):
            settings[column.removeprefix("config/")] = _parse_setting(cell)
        elif column.startswith("stage/"):
            if not _is_plain_name(cell):
                raise ResultsError(
                    f"{place}: column {column!r} is {cell!r}, not the name of a folder in stages/"
                )
            stages[column.removeprefix("stage/")] = cell
        else:
            number = _parse_number(cell)
            if number is None and column in ("trial", "elapsed_hours", *objectives):
                raise ResultsError(f"{place}: column {column!r} is {cell!r}, not a finite number")
            if number is not None:
                measures[column] = number
    if "trial" not in measures:
        raise ResultsError(f"{place}: column 'trial' is empty")
    return Trial(
        run=run,
        number=int(measures.pop("trial")),
        state=row["state"],
        reason=row.get("reason", ""),
        settings=settings,
        measures=measures,
        stages=stages,
        finished_at=row.get("finished_at", ""),
        elapsed_hours=measures.pop("elapsed_hours", None),
    )


def _parse_number(cell: str) -> float | None:
    try:
        number = float(cell)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _parse_setting(cell: str) -> Setting:
    if cell in ("True", "False"):
        return cell == "True"
    number = _parse_number(cell)
    return cell if number is None else number
