"""Read test.csv, the scores of a run's networks on the test split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from analysis.csv_tables import parse_numbers, read_table

IOU = "iou/"


class HeldOutScore(NamedTuple):
    """The score of a network on the test split.

    Attributes:
        network: Name of the network: "teacher", "dense" or "trial-7".
        miou: mIoU in 0..1.
        iou: Class -> IoU in 0..1, for the classes that occur.
    """

    network: str
    miou: float
    iou: Mapping[str, float]


def read_held_out_scores(path: Path) -> dict[str, HeldOutScore]:
    """Read the scores by network.

    Args:
        path: Path of the file, which is missing if the run has no test split.

    Raises:
        ResultsError: A column is missing or a cell is not a number; the message names the line.
    """
    if not path.is_file():
        return {}
    table = read_table(path, required=("network", "miou"))
    classes = [str(name) for name in table.columns if str(name).startswith(IOU)]
    for name in ("miou", *classes):
        table[name] = parse_numbers(table, name, path, strict=True)
    return {
        str(row["network"]): HeldOutScore(
            str(row["network"]),
            float(row["miou"]),
            {c.removeprefix(IOU): float(row[c]) for c in classes if not math.isnan(row[c])},
        )
        for row in table.to_dict(orient="records")
    }
