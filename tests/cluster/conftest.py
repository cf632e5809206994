"""What the studies on several nodes have in common."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NUM_PIPELINES = 3
# Tune brings up one process at a time, and gives the next stage to one that has become free: all
# nodes are used only if the first stages last longer than a process takes to start.
TINY = f"""
    streets --num-pipelines {NUM_PIPELINES} --sampler random --no-stop-hopeless
    --pipeline.data.size 64 128 --pipeline.data.num-samples 16
    --pipeline.data.augmentation.crop-size 64 64 --pipeline.latency.max-seconds 0.2
    --pipeline.teacher.width 0.125 --pipeline.student.width 0.125
    --pipeline.teacher-training.num-steps 1000 --pipeline.dense.num-steps 4
    --pipeline.sparse.num-steps 500 --pipeline.distil.num-steps 4
"""


@pytest.fixture
def tiny_study() -> list[str]:
    """Flags of search/run.py for a study of seconds."""
    return shlex.split(TINY)


@pytest.fixture
def _benchmarks_importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts, not a package: `python benchmarks/x.py` puts their folder on the path itself."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")


@pytest.fixture
def read_results() -> Callable[[Path], list[dict[str, Any]]]:
    """Reads what the trials of a study that has succeeded reported: with node and process."""

    def read(run_dir: Path) -> list[dict[str, Any]]:
        with (run_dir / "trials.csv").open() as file:
            states = [row["state"] for row in csv.DictReader(file)]
        assert states == ["complete"] * NUM_PIPELINES
        assert (run_dir / "report" / "index.html").is_file()
        files = run_dir.glob("tune/*/*/result.json")
        return [json.loads(line) for path in files for line in path.read_text().splitlines()]

    return read
