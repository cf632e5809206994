"""The network of a trial, found in the folder of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable
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
    folder = find_network_folder(run_dir / "stages", stages)
    if folder is None:
        raise RunFolderError(
            f"trial {number} (state {results.get('state')}) has no network in "
            f"{run_dir / 'stages'}; its stages are {', '.join(stages) or 'none'}"
        )
    metadata = json.loads((run_dir / "metadata.json").read_text())
    height, width = metadata["latency"]["resolution"]
    resolution = int(height), int(width)
    return TrialCheckpoint(number, folder, resolution, results, metadata)


def find_network_folder(stages: Path, names: Iterable[str]) -> Path | None:
    """Find what a trial ended with: the files of its last stage that wrote some, or its network.

    Args:
        stages: Folder of the artefacts.
        names: Of the trial's artefacts, first stage first.
    """
    folders = [stages / name for name in names]
    bundles = [folder for folder in folders if is_bundle(folder)]
    networks = [folder for folder in folders if (folder / CHECKPOINT).is_file()]
    return next(iter([*bundles[::-1], *networks[::-1]]), None)
