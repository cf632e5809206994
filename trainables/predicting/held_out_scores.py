"""The table test.csv of a run: its baselines and its front on the test split.

Columns: trial (empty for a baseline), network ("teacher", "dense" or "trial-7"), stage (folder
below stages/), data (fingerprint of the test split), miou and iou/<class>, all in 0..1.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from models.files.atomic_file import write_atomically
from trainables.context import StageContext
from trainables.data import SegmentationDataset
from trainables.predicting.open_network import NetworkError, open_network
from trainables.predicting.run_networks import RunNetwork

FILE = "test.csv"


def write_test_scores(
    run_dir: Path,
    networks: Sequence[RunNetwork],
    dataset: SegmentationDataset,
    context: StageContext,
) -> list[str]:
    """Evaluate each network on the test split once, and write RUN_DIR/test.csv.

    Existing rows of the file are kept if they are of the same images and labels, so that a resumed
    run evaluates only new members.

    Args:
        run_dir: Folder of the run.
        networks: Baselines and members of the front.
        dataset: The test split; it must have labels.
        context: Device, threads and lock.

    Returns:
        Notes for the user: networks that could not be opened.
    """
    path = run_dir / FILE
    known = _read_known(path, dataset.fingerprint)
    notes: list[str] = []
    rows: list[dict[str, object]] = []
    for network in networks:
        row = known.get(network.stage)
        if row is None:
            try:
                evaluate = open_network(network, context)
            except NetworkError as error:
                notes.append(f"{network.name} is not evaluated on the test split: {error}")
                continue
            matrix = evaluate(dataset)
            iou = matrix.name_iou(dataset.classes)
            row = {"miou": matrix.miou}
            row |= {f"iou/{name}": value for name, value in iou.items() if value is not None}
        rows.append(
            {
                **row,
                "trial": "" if network.trial is None else network.trial,
                "network": network.name,
                "stage": network.stage,
                "data": dataset.fingerprint,
            }
        )
        table = pd.DataFrame(rows)
        first = ["trial", "network", "stage", "data", "miou"]
        table = table[[*first, *(name for name in table.columns if name not in first)]]
        text = io.StringIO()
        table.to_csv(text, index=False, lineterminator="\n")
        write_atomically(path, text.getvalue())
    return notes


def _read_known(path: Path, fingerprint: str) -> dict[str, dict[str, object]]:
    """Return the rows of a test split by stage; files of older versions do not name the split."""
    if not path.is_file():
        return {}
    texts = dict.fromkeys(("trial", "network", "stage", "data"), str)
    table = pd.read_csv(path, dtype=texts)
    if "data" not in table:
        return {}
    rows = table[table["data"] == fingerprint].to_dict(orient="records")
    return {
        str(row["stage"]): {str(name): value for name, value in row.items() if not pd.isna(value)}
        for row in rows
    }
