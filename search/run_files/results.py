"""The results files of a run: trials.csv and metadata.json."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata as packages
from pathlib import Path
from typing import Any

import pandas as pd

from models.engines import resolve_device, resolve_engine
from models.files.atomic_file import write_atomically
from models.hardware import describe_hardware
from search.config import StudyConfig
from search.objectives import OBJECTIVES
from search.pipelines.records import TrialRecord
from trainables.pipeline import Baseline, DatasetSummary

TRIALS_FILE = "trials.csv"
METADATA_FILE = "metadata.json"
PACKAGES = ("torch", "torchvision", "segmentation-models-pytorch", "ray", "optuna")


def write_trials(
    path: Path,
    records: Iterable[TrialRecord],
    objectives: Sequence[str],
    kept_out: Mapping[int, str] | None = None,
) -> None:
    """Write trials.csv with one row per trial and its columns in a stable order.

    Args:
        path: File to replace.
        records: Records of the trials, in any order.
        objectives: Objectives; their columns are written even before a trial is complete.
        kept_out: Reasons why complete trials are kept out of the front, by trial number.
    """
    rows = [_row(record) for record in sorted(records, key=lambda record: record.number)]
    for row in rows:
        if kept_out and row["trial"] in kept_out:
            row |= {"state": "failed", "reason": kept_out[row["trial"]]}
    names = dict.fromkeys(name for row in rows for name in row)
    first = ("trial", "state", "reason", "stopped_by", "continues")
    chosen = tuple(name for name in names if name.startswith("config/"))
    last = ("started_at", "finished_at", "elapsed_hours")
    between = [name for name in names if name not in (*first, *chosen, *last)]
    between.sort(key=_group)
    columns = dict.fromkeys((*first, *chosen, *objectives, *between, *last))
    table = pd.DataFrame(rows, columns=list(columns), dtype=object)
    write_atomically(path, table.to_csv(index=False, lineterminator="\n"))


def _group(column: str) -> int:
    """Return a column's group: measurements come first, then classes, stages and seconds."""
    order = ("iou/", "network", "stage/", "seconds/", "seconds_total")
    return next((1 + i for i, prefix in enumerate(order) if column.startswith(prefix)), 0)


def _row(record: TrialRecord) -> dict[str, Any]:
    elapsed = record.elapsed_hours
    return {
        "trial": record.number,
        "state": record.state,
        "reason": record.reason,
        "stopped_by": record.stopped_by,
        **{f"config/{name}": value for name, value in record.settings.items()},
        "continues": "" if record.continues is None else record.continues,
        **record.metrics,
        **{f"stage/{name}": folder for name, folder in record.stages.items()},
        **{f"seconds/{name}": round(value, 3) for name, value in record.seconds.items()},
        "network": record.network,
        "seconds_total": round(sum(record.seconds.values()), 3) if record.seconds else "",
        "started_at": record.started_at,
        "finished_at": record.finished_at,
        "elapsed_hours": "" if elapsed is None else f"{elapsed:.6f}",
    }


def reference_point(config: StudyConfig, baselines: Sequence[Baseline]) -> dict[str, float]:
    """Return the reference point: zero accuracy and the largest cost of an uncompressed student.

    Args:
        config: Configuration with the objectives.
        baselines: Uncompressed networks measured so far.

    Returns:
        Worst value that counts, by objective; empty until there is a student.
    """
    students = [baseline.to_entry() for baseline in baselines if baseline.role == "student"]
    if not students:
        return {}
    return {
        name: 0.0
        if OBJECTIVES[name].direction == "maximize"
        else max(float(student[name]) for student in students)
        for name in config.objectives
    }


def write_metadata(
    path: Path,
    config: StudyConfig,
    dataset: DatasetSummary,
    baselines: Sequence[Baseline],
    *,
    device: str,
    created_at: str,
    hardware: Mapping[str, Any] | None = None,
    time: Mapping[str, Any] | None = None,
) -> None:
    """Write metadata.json, with which a run's results can be read without the project.

    Args:
        path: File to replace.
        config: Configuration of the study.
        dataset: Summary of the study's data set.
        baselines: Uncompressed networks measured so far.
        device: Torch device of the trainings, on which latency was measured unless on a host.
        created_at: Time when the run was created, ISO 8601.
        hardware: Hardware of the machine on which latency was measured; default: this machine.
        time: Time and money spent so far, see `ResultsWriter.write_time`.
    """
    reference = reference_point(config, baselines)
    latency = config.pipeline.latency
    content = {
        "recipe": config.recipe,
        "created_at": created_at,
        "segfront_version": _version("segfront"),
        "objectives": [
            {
                "name": name,
                "direction": OBJECTIVES[name].direction,
                "unit": OBJECTIVES[name].unit,
                "label": OBJECTIVES[name].label,
                "reference": reference.get(name),
            }
            for name in config.objectives
        ],
        "dataset": dataset._asdict(),
        "warnings": list(dataset.warnings),
        "latency": {
            # Every setting is written, because a report refuses to compare runs that differ in one.
            **asdict(latency),
            "engine": resolve_engine(latency.engine, device, latency.host),
            "device": resolve_device(latency.engine, device, latency.host),
            "resolution": latency.resolution or dataset.resolution,
        },
        "baselines": [baseline.to_entry() for baseline in baselines],
        "hardware": describe_hardware(device) if hardware is None else hardware,
        "versions": {
            "python": platform.python_version(),
            **{name: _version(name) for name in PACKAGES},
        },
        "git": describe_git(Path(__file__).parent),
        "time": dict(time or {}),
    }
    write_atomically(path, json.dumps(content, indent=1) + "\n")


def describe_git(folder: Path) -> Mapping[str, Any]:
    """Return the checkout's commit and whether it has changes; empty outside a checkout."""

    def ask(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)  # noqa: S603
        return answer.stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return {}


def now() -> str:
    """Return the current time as ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _version(package: str) -> str:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return ""
