"""The network of a trial, found in the folder of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from models.deployment.bundle import is_bundle

CHECKPOINT = "checkpoint.safetensors"
STAGE_PREFIX = "stage/"


class RunFolderError(RuntimeError):
    """A run's folder lacks what was asked for; the message says what it has."""


class TrialCheckpoint(NamedTuple):
    """A trial's last network.

    Attributes:
        number: Of the trial.
        folder: Of the stage, such as stages/distilled-<key>.
        resolution: Height and width that its latency was measured at.
        results: The trial's row of trials.csv, without what is empty.
        metadata: Of the run.
    """

    number: int
    folder: Path
    resolution: tuple[int, int]
    results: dict[str, Any]
    metadata: dict[str, Any]


def find_trial(run_dir: Path, number: int) -> TrialCheckpoint:
    """Find the network of a trial: that of its last stage that has one.

    Args:
        run_dir: Holds trials.csv, metadata.json and stages/.
        number: Of the trial.

    Raises:
        RunFolderError: There is no such run, trial or network.
    """
    table_path = run_dir / "trials.csv"
    if not table_path.is_file():
        raise RunFolderError(f"{run_dir} is no folder of a run: it has no trials.csv")
    table = pd.read_csv(table_path)
    rows = table[table["trial"] == number]
    if rows.empty:
        numbers = ", ".join(map(str, table["trial"].tolist()))
        raise RunFolderError(f"{run_dir} has no trial {number}; it has {numbers or 'none'}")
    results = json.loads(rows.iloc[0].dropna().to_json())
    stages = [
        str(name)
        for column, name in results.items()
        if column.startswith(STAGE_PREFIX) or column == "network"
    ]
    folders = [run_dir / "stages" / name for name in stages]
    found = [f for f in folders if is_bundle(f) or (f / CHECKPOINT).is_file()]
    if not found:
        raise RunFolderError(
            f"trial {number} (state {results.get('state')}) has no network in "
            f"{run_dir / 'stages'}; its stages are {', '.join(stages) or 'none'}"
        )
    bundles = [folder for folder in found if is_bundle(folder)]
    metadata = json.loads((run_dir / "metadata.json").read_text())
    height, width = metadata["latency"]["resolution"]
    resolution = int(height), int(width)
    return TrialCheckpoint(number, (bundles or found)[-1], resolution, results, metadata)
