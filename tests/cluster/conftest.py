"""What the studies on several nodes have in common."""

from __future__ import annotations

import csv
import importlib
import json
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
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
def start_hosts(_benchmarks_importable: None) -> Iterator[Callable[..., Any]]:
    """Starts machines with a core each, on which nothing of the project is installed yet.

    Its keywords are those of `HostCluster`. The machines end with the test.
    """
    host_cluster = importlib.import_module("host_cluster")
    script = os.environ.get(host_cluster.SCRIPT_VARIABLE)
    if obstacle := host_cluster.find_obstacle(script):
        pytest.skip(obstacle)
    with (
        tempfile.TemporaryDirectory(dir="/var/tmp", prefix="segfront-") as folder,
        ExitStack() as ending,
    ):

        def start(**options: Any) -> Any:
            cluster = host_cluster.HostCluster(
                script=Path(str(script)), folder=Path(folder), num_cpus=1, **options
            )
            ending.callback(cluster.stop_hosts)
            cluster.start_hosts()
            return cluster

        yield start


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
