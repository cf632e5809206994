"""Read trials.csv, the table with one row per trial."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.csv_tables import MISSING, ResultsError, line_number, parse_numbers, read_table

STATES = ("complete", "failed", "stopped", "running")
TEXT_COLUMNS = ("state", "reason", "stopped_by", "network", "started_at", "finished_at")
SETTING, STAGE = "config/", "stage/"
MEASUREMENTS = ("latency",)
"""Stages that measure a network without making a new one."""
FILES = "quantised"
"""Stage that writes a network to files and measures these in place of the network."""

Setting = float | str | bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One row of trials.csv.

    Attributes:
        run: Name of the run's folder.
        number: Trial number in its study.
        state: State of the trial: "complete", "failed", "stopped" or "running".
        reason: Reason why it failed or was stopped; "" if it is complete.
        settings: Settings by name, without "config/"; settings that the trial does not use are
            left out.
        measures: Measured numbers by column name, objectives included; never NaN.
        stages: Folder in stages/ by stage, in the order in which the stages ran.
        finished_at: Time of its end, ISO 8601; "" if not known.
        elapsed_hours: Working time from the study's start to the trial's end; None if not known.
        network: Folder in stages/ of its final network; "" if it has none.
        continues: Number of the trial from whose network this one continues; None if it starts
            from the uncompressed network.
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
    network: str = ""
    continues: int | None = None

    @property
    def answer(self) -> str:
        """Folder in stages/ of what was measured at the end: the network, or files made of it."""
        return self.stages.get(FILES, self.network)


def read_trials(
    path: Path, *, run: str, objectives: Sequence[str]
) -> tuple[tuple[Trial, ...], list[str]]:
    """Read every trial of a trials.csv.

    Args:
        path: Path of the file.
        run: Name of the run, stored in every trial.
        objectives: Columns whose non-empty cells must be numbers.

    Returns:
        The trials in the order of the file, and the names of the columns.

    Raises:
        ResultsError: The file is missing, or a cell is not valid in its column.
    """
    table = read_table(path, required=("trial", "state"))
    columns = [str(name) for name in table.columns]
    unknown = ~table["state"].isin(STATES).to_numpy()
    if unknown.any():
        row = int(unknown.argmax())
        state = table["state"].iloc[row]
        raise ResultsError(
            f"{path}, line {line_number(row)}: column 'state' is {state!r}, not one of {STATES}"
        )
    strict = {"trial", "elapsed_hours", "continues", *objectives}
    measures = pd.DataFrame(
        {
            name: parse_numbers(table, name, path, strict=name in strict)
            for name in columns
            if name not in TEXT_COLUMNS and not name.startswith((SETTING, STAGE))
        }
    )
    empty = measures["trial"].isna().to_numpy()
    if empty.any():
        line = line_number(int(empty.argmax()))
        raise ResultsError(f"{path}, line {line}: column 'trial' is empty")
    _check_folders(table, columns, path)
    rows = zip(table.to_dict(orient="records"), measures.to_dict(orient="records"), strict=True)
    return tuple(_make_trial(texts, numbers, run) for texts, numbers in rows), columns


def _make_trial(texts: Mapping[Any, str], numbers: Mapping[Any, float], run: str) -> Trial:
    known = {str(name): value for name, value in numbers.items() if not math.isnan(value)}
    cells = {str(name): text for name, text in texts.items() if text not in MISSING}
    continues = known.pop("continues", None)
    stages = {
        name.removeprefix(STAGE): text for name, text in cells.items() if name.startswith(STAGE)
    }
    # Runs of older versions do not name the final network; it is that of the last stage.
    made = [folder for name, folder in stages.items() if name not in MEASUREMENTS]
    return Trial(
        run=run,
        number=int(known.pop("trial")),
        state=texts["state"],
        reason=cells.get("reason", ""),
        settings={
            name.removeprefix(SETTING): _parse_setting(text)
            for name, text in cells.items()
            if name.startswith(SETTING)
        },
        stages=stages,
        network=cells.get("network", made[-1] if made else ""),
        finished_at=cells.get("finished_at", ""),
        elapsed_hours=known.pop("elapsed_hours", None),
        continues=None if continues is None else int(continues),
        measures=known,
    )


def _check_folders(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Refuse a cell that is not the name of a folder in stages/."""
    for name in columns:
        if not name.startswith(STAGE) and name != "network":
            continue
        for row, text in enumerate(table[name]):
            if text not in MISSING and (text in (".", "..") or set(text) & set("/\\\0")):
                raise ResultsError(
                    f"{path}, line {line_number(row)}: column {name!r} is {text!r}, "
                    "not the name of a folder in stages/"
                )


def _parse_setting(text: str) -> Setting:
    if text in ("True", "False"):
        return text == "True"
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
