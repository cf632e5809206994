"""Trainings that two machines share: as on one machine, also when one of them loses its process."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[2]
NUM_STEPS = 150
FLAGS = f"""
    --num-pipelines 1 --teacher same --checkpoint-seconds 1 --pipeline.dense.batch-size 4
    --pipeline.dense.precision float32 --pipeline.dense.num-steps {NUM_STEPS}
    --pipeline.sparse.precision float32 --pipeline.sparse.num-steps 20
    --pipeline.distil.precision float32 --space.distiller none
    --pipeline.dense.optimizer.lr 1e-4
"""
SHARED = ("--processes-per-baseline", "2", "--processes-per-trial", "2", "--cpus-per-trial", "2")
FIND_HELPER = "pgrep -f 'ray::dense helper [1]' || true"

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture
def hosts(start_hosts: Callable[..., Any]) -> Any:
    """Two machines with a core each, so that two processes are on both of them."""
    return start_hosts(num_hosts=2)


def test_two_machines_train_like_one_also_when_one_loses_its_process(
    hosts: Any, tiny_study: list[str], tmp_path: Path
) -> None:
    study = ["search/run.py", *tiny_study, *shlex.split(FLAGS)]
    alone = [sys.executable, *study, "--output-dir", str(tmp_path), "--no-dashboard"]
    subprocess.run(alone, cwd=ROOT, check=True, capture_output=True, timeout=300)

    assert hosts.ray_up() == 2
    runs = hosts.folder / "shared" / "runs"
    command = ["python", *study, *SHARED, "--address", "auto", "--output-dir", str(runs)]
    with subprocess.Popen(
        [hosts.script, "ssh", "1", f"cd ~/segfront && {shlex.join(command)}"],
        env=hosts.hosts_environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as driver:
        while not (helpers := find_helpers(hosts)):
            assert driver.poll() is None, driver.stdout and driver.stdout.read()
            time.sleep(0.5)
        while not list(runs.glob("*/stages/dense-*.partial/state.safetensors")):
            assert driver.poll() is None, driver.stdout and driver.stdout.read()
            time.sleep(0.2)
        number, helper = helpers[0]  # a process of the other host may have the same number
        hosts.ssh(number, f"kill -9 {helper} 2> /dev/null || true")
        printed = driver.communicate(timeout=500)[0]
    assert driver.returncode == 0, printed
    assert "dense is run again" in printed
    (shared_run,), (own_run,) = runs.glob("streets-*"), tmp_path.glob("streets-*")
    (shared,), (own,) = read_losses(shared_run, "dense"), read_losses(own_run, "dense")
    torch.testing.assert_close(shared[:10], own[:10], rtol=1e-6, atol=0)
    # Rounding differences grow with every step; a lost training state would show at once.
    torch.testing.assert_close(shared[:40], own[:40], rtol=5e-3, atol=0)
    hosts.ray_down()


def find_helpers(hosts: Any) -> list[tuple[int, str]]:
    """Find the processes that help to train: number of the host, and process number there."""
    return [(host, pid) for host in (1, 2) for pid in hosts.ssh(host, FIND_HELPER).split()]


def read_losses(run_dir: Path, stage: str) -> list[torch.Tensor]:
    """Read the curves of the losses of a stage, one for each of its artefacts."""
    files = run_dir.glob(f"stages/{stage}-*/result.json")
    return [torch.tensor(json.loads(path.read_text())["result"]["losses"]) for path in files]
