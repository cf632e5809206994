"""The networks of a finished run to show: its baselines and the front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import moocore
import pandas as pd

from models.deployment.bundle import is_bundle
from models.deployment.run_folder import STAGE_PREFIX

KEPT_OUT_FILE = "deploy/kept_out.json"
"""File of the trials whose network is left out of the answer although it is complete, with
reasons.
"""


class RunNetwork(NamedTuple):
    """A network of a run.

    Attributes:
        key: Name for files, such as "teacher", "dense" or "trial-7".
        name: Name in tables: for a baseline that in metadata.json, else the key.
        role: Role: "teacher", "student" (before compression) or "front".
        trial: Trial number in the study; None for a baseline.
        stage: Name of the folder below the run's stages/ that contains it.
        folder: Path of that folder, with a checkpoint or with files ready to deploy.
    """

    key: str
    name: str
    role: str
    trial: int | None
    stage: str
    folder: Path

    @property
    def is_bundle(self) -> bool:
        """Whether the trial ends with files ready to deploy, which its metrics describe."""
        return is_bundle(self.folder)


def find_networks(run_dir: Path) -> list[RunNetwork]:
    """Find the baselines and the members of the front, sorted by the first objective, best first.

    Args:
        run_dir: Folder with metadata.json and trials.csv.

    Raises:
        ValueError: One of the two files is missing or broken.
    """
    try:
        metadata = json.loads((run_dir / "metadata.json").read_text(encoding="utf-8"))
        objectives = {
            entry["name"]: entry["direction"] == "maximize" for entry in metadata["objectives"]
        }
        trials = pd.read_csv(run_dir / "trials.csv")
        complete = trials[trials["state"] == "complete"].dropna(subset=list(objectives))
        kept_out = run_dir / KEPT_OUT_FILE
        if kept_out.is_file():
            numbers = [int(number) for number in json.loads(kept_out.read_text(encoding="utf-8"))]
            complete = complete[~complete["trial"].isin(numbers)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{run_dir} must be a run folder with metadata.json and trials.csv: {error!r}"
        ) from error
    networks = [
        _locate(run_dir, str(entry["name"]), _read_role(entry), None, str(entry["stage"]))
        for entry in metadata.get("baselines") or []
        if entry.get("stage")
    ]
    if complete.empty:
        return networks
    values = complete[list(objectives)].to_numpy(dtype=float)
    on_front = moocore.is_nondominated(values, maximise=list(objectives.values()))
    first = next(iter(objectives))
    front = complete[on_front].sort_values(first, ascending=not objectives[first])
    for _, row in front.iterrows():
        number, stage = int(row["trial"]), _find_network(run_dir, row)
        if stage:
            networks.append(_locate(run_dir, f"trial-{number}", "front", number, stage))
    return networks


def _locate(run_dir: Path, name: str, role: str, trial: int | None, stage: str) -> RunNetwork:
    key = "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
    return RunNetwork(key, name, role, trial, stage, run_dir / "stages" / stage)


def _read_role(entry: dict[str, Any]) -> str:
    return str(entry.get("role") or ("teacher" if entry["name"] == "teacher" else "student"))


def _find_network(run_dir: Path, row: pd.Series) -> str:
    """Return the folder of a trial's last files or, if it has none, of its last network.

    Older runs record only stages.
    """
    columns = [name for name in row.index if str(name).startswith(STAGE_PREFIX)]
    names = [str(row[name]) for name in columns if not pd.isna(row[name])]
    files = [name for name in names if is_bundle(run_dir / "stages" / name)]
    if files:
        return files[-1]
    if "network" in row.index:
        return "" if pd.isna(row["network"]) else str(row["network"])
    made = [name for name in names if not name.startswith("latency-")]
    return made[-1] if made else ""
