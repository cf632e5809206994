"""Realistic run folders, made up: 24 to 40 trials, three objectives, mixed states."""

from __future__ import annotations

import csv
import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

OBJECTIVES = [
    {"name": "miou", "direction": "maximize", "unit": "", "label": "mIoU", "reference": 0.0},
    {
        "name": "latency_ms",
        "direction": "minimize",
        "unit": "ms",
        "label": "Latency",
        "reference": 143.2,
    },
    {
        "name": "num_params",
        "direction": "minimize",
        "unit": "",
        "label": "Parameters",
        "reference": 2.3e6,
    },
]
METADATA: dict[str, Any] = {
    "recipe": "camvid",
    "created_at": "2026-11-21T09:00:00+00:00",
    "segfront_version": "0.1.0",
    "objectives": OBJECTIVES,
    "dataset": {
        "name": "camvid",
        "num_classes": 11,
        "classes": ["sky", "<script>alert(1)</script>"],
        "resolution": [360, 480],
    },
    "latency": {
        "device": "cpu",
        "dtype": "float32",
        "num_threads": 1,
        "batch_size": 1,
        "resolution": [360, 480],
    },
    "baselines": [
        {
            "name": "teacher",
            "model": "deeplabv3plus",
            "miou": 0.70,
            "latency_ms": 201.0,
            "num_params": 4.4e6,
        },
        {
            "name": "dense",
            "model": "dual_branch",
            "miou": 0.652,
            "latency_ms": 143.2,
            "num_params": 2.3e6,
        },
    ],
    "hardware": {"cpu": "Example CPU <script>alert(2)</script>", "num_cpus": 2, "gpu": None},
    "versions": {"torch": "2.15.0", "optuna": "5.0.0"},
    "git": {"commit": "0123abc", "dirty": False},
}
REASONS = {
    "failed": "loss is NaN at step 12 </script><script>alert(3)</script>",
    "stopped": "cannot reach the front any more",
    "complete": "",
    "running": "",
}


def make_rows(num_trials: int = 32, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of trials.csv in which pruning decides over cost and, with T and λ, over mIoU."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(num_trials):
        ratio = round(float(rng.choice([0.2, 0.3, 0.4, 0.5, 0.6, 0.7])), 1)
        temperature = float(rng.uniform(1, 8))
        sparsity = float(10 ** rng.choice([-5, -4.5, -4, -3.5, -3]))
        params = 2.3e6 * (1 - ratio) ** 2 * rng.uniform(0.97, 1.03)
        latency = 143.2 * (1 - 0.85 * ratio) * rng.uniform(0.93, 1.05)
        miou = 0.66 - 0.5 * max(0, ratio - 0.35) ** 2 - 0.002 * (temperature - 4) ** 2
        miou += rng.normal(0, 0.008)
        state = "failed" if number % 13 == 5 else "stopped" if number % 9 == 7 else "complete"
        if number == num_trials - 1:
            state = "running"
        done = state == "complete"
        rows.append(
            {
                "trial": number,
                "state": state,
                "reason": REASONS[state],
                "config/sparsity_lambda": sparsity,
                "config/pruning_ratio": ratio,
                "config/temperature": temperature,
                "config/alpha": float(rng.uniform(0.5, 4)),
                "config/beta": float(rng.uniform(1, 16)),
                "config/eta": 1.0,
                "config/scope": "<b>global</b>" if number % 3 else "local",
                "miou": miou if done else "",
                "latency_ms": latency if state != "running" else "",
                "num_params": params if state != "running" else "",
                "macs": params * 5000,
                "latency_p95_ms": latency * 1.08,
                "miou_pruned": miou - 0.12 if done else "",
                "iou/<script>": 0.5,
                "stage/dense": "dense-0a1b",
                "stage/sparse": f"sparse-{number % 5:04x}",
                "stage/pruned": f"pruned-{number:04x}",
                "stage/distilled": f"distilled-{number:04x}" if done else "",
                "seconds_total": 190.0 + 10 * ratio,
                "started_at": f"2026-11-21T09:{number:02d}:00+00:00",
                "finished_at": f"2026-11-21T09:{number + 1:02d}:00+00:00",
                "elapsed_hours": "" if state == "running" else 0.03 * (number + 1),
            }
        )
    return rows


def write_run(
    folder: Path,
    rows: list[dict[str, Any]] | None = None,
    metadata: dict[str, Any] | None = None,
    *,
    columns: list[str] | None = None,
) -> Path:
    """Write a run folder; returns it."""
    rows = make_rows() if rows is None else rows
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text(json.dumps(METADATA if metadata is None else metadata))
    with (folder / "trials.csv").open("w", newline="") as file:
        names = columns or list(make_rows(1)[0])
        writer = csv.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    for row in rows[::2]:
        if row["state"] == "complete" and row.get("stage/distilled"):
            stage = folder / "stages" / row["stage/distilled"]
            stage.mkdir(parents=True, exist_ok=True)
            (stage / "checkpoint.safetensors").write_bytes(b"")
    return folder


@pytest.fixture
def make(tmp_path):
    """Namespace of rows(), metadata (a fresh copy) and run(rows, metadata) -> folder."""

    def run(rows=None, metadata=None, *, name="run", columns=None):
        return write_run(tmp_path / name, rows, metadata, columns=columns)

    return SimpleNamespace(rows=make_rows, metadata=deepcopy(METADATA), run=run)
