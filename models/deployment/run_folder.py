"""Finds the network of a trial in the folder of a run."""

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
    """A run folder lacks the requested run, trial or network; the message says what it has."""


class TrialCheckpoint(NamedTuple):
    """The last network of a trial.

    Attributes:
        number: Trial number in the study.
        folder: Folder of the stage that made it, such as stages/distilled-<key>.
        resolution: Height and width that its latency was measured at.
        results: The trial's row of trials.csv, without empty values.
        metadata: Content of the run's metadata.json.
    """

    number: int
    folder: Path
    resolution: tuple[int, int]
    results: dict[str, Any]
    metadata: dict[str, Any]


def find_trial(run_dir: Path, number: int) -> TrialCheckpoint:
    """Find the last network of a trial.

    Args:
        run_dir: Folder of a run, with trials.csv, metadata.json and stages/.
        number: Trial number in the study.

    Raises:
        RunFolderError: The run, the trial or its network does not exist.
    """
    table_path = run_dir / "trials.csv"
    if not table_path.is_file():
        raise RunFolderError(f"{run_dir} is not the folder of a run: it has no trials.csv")
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
    """Find a trial's last deployment bundle or, if it has none, its last network.

    Args:
        stages: Folder of the artefacts.
        names: Names of the trial's artefacts, first stage first.
    """
    folders = [stages / name for name in names]
    bundles = [folder for folder in folders if is_bundle(folder)]
    networks = [folder for folder in folders if (folder / CHECKPOINT).is_file()]
    return next(iter([*bundles[::-1], *networks[::-1]]), None)
