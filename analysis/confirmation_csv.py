"""Read confirmation.csv, the table of the retrainings of a run's front."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from analysis.csv_tables import ResultsError, line_number, parse_numbers, read_table

COLUMNS = ("trial", "seed", "state", "miou")
NUMBERS = ["trial", "seed", "miou"]


def read_retrainings(path: Path) -> dict[int, tuple[float, ...]]:
    """Read the mIoUs of the complete retrainings.

    Args:
        path: Path of the file, which is missing if the run has no retrainings.

    Returns:
        Trial number -> mIoUs in 0..1, in the order of the file.

    Raises:
        ResultsError: A column is missing, a cell is not a number, or a trial has a seed twice; the
            message names the line.
    """
    if not path.is_file():
        return {}
    table = read_table(path, required=COLUMNS)
    complete = table[table["state"] == "complete"]
    found = pd.DataFrame(
        {name: parse_numbers(complete, name, path, strict=True) for name in NUMBERS}
    )
    for name in NUMBERS:
        for row in found.index[found[name].isna()]:
            text = complete[name][row]
            raise ResultsError(
                f"{path}, line {line_number(row)}: column {name!r} is {text!r}, not a finite number"
            )
    for row in found.index[found.duplicated(["trial", "seed"])]:
        trial, seed = int(found["trial"][row]), int(found["seed"][row])
        raise ResultsError(f"{path}, line {line_number(row)}: trial {trial} has seed {seed} twice")
    by_trial: dict[int, tuple[float, ...]] = {}
    for trial, miou in zip(found["trial"].astype(int), found["miou"], strict=True):
        by_trial[trial] = (*by_trial.get(trial, ()), float(miou))
    return by_trial
