"""Read confirmation.csv, the table of the further fine-tunings of a run's front."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from analysis.trials_csv import ResultsError

COLUMNS = ("trial", "seed", "state", "miou")


def read_retrainings(path: Path) -> dict[int, tuple[float, ...]]:
    """Read the mIoUs of the complete retrainings.

    Args:
        path: The file; a run that confirmed nothing has none.

    Returns:
        Number of the trial -> mIoUs in 0..1, in the order of the file.

    Raises:
        ResultsError: A column is missing, a cell is no number, or a trial has a seed twice; names
            the line.
    """
    if not path.is_file():
        return {}
    found: dict[tuple[int, int], float] = {}
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or [])]
        if missing:
            raise ResultsError(f"{path}: column {missing[0]!r} is missing")
        for row in reader:
            if row["state"] != "complete":
                continue
            place = f"{path}, line {reader.line_num}"
            try:
                key, miou = (int(row["trial"]), int(row["seed"])), float(row["miou"])
            except (TypeError, ValueError) as error:
                raise ResultsError(f"{place}: {error}") from None
            if not math.isfinite(miou):
                raise ResultsError(f"{place}: column 'miou' is {row['miou']!r}, not finite")
            if key in found:
                raise ResultsError(f"{place}: trial {key[0]} has seed {key[1]} twice")
            found[key] = miou
    by_trial: dict[int, tuple[float, ...]] = {}
    for (trial, _), miou in found.items():
        by_trial[trial] = (*by_trial.get(trial, ()), miou)
    return by_trial
