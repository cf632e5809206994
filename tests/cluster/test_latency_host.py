"""Latency on machines of their own: each its own, a slower one its slower."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from models.latency import measure_latency
from models.timing import host as host_module
from models.timing.host import HostError

SCRIPT = os.environ.get("SEGFRONT_HOSTS_SCRIPT")
CGROUP = Path("/sys/fs/cgroup/cpu/segfront-slow-host")
SLOW_SHARE = 0.05  # of a core
PERIOD_US = 20_000  # the share of it must be a millisecond at least


def find_obstacle() -> str:
    found: str = importlib.import_module("host_cluster").find_obstacle(SCRIPT)
    if (
        not found
        and not os.access(CGROUP.parent / "cpu.cfs_quota_us", os.W_OK)
        and not os.access(CGROUP.parent, os.W_OK)
    ):
        return "there is no cgroup of the CPU to slow a host down"
    return found


@pytest.fixture
def hosts(
    _benchmarks_importable: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """Addresses of two hosts, h2 with a share of a core."""
    if obstacle := find_obstacle():
        pytest.skip(obstacle)
    monkeypatch.setenv("SEGFRONT_HOSTS", str(tmp_path / "hosts"))
    command = [str(SCRIPT), "up", "2", "--bin", str(Path(sys.executable).parent)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100)
        key = re.search(r"^key (.+)$", ended.stdout, re.MULTILINE)
        assert key is not None, ended.stdout
        options = "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
        monkeypatch.setenv("SEGFRONT_SSH", f"ssh -i {key.group(1)} {options}")
        monkeypatch.setattr(host_module, "FIRST_PAUSE_SECONDS", 1.0)
        CGROUP.mkdir(exist_ok=True)
        (CGROUP / "cpu.cfs_period_us").write_text(str(PERIOD_US))
        (CGROUP / "cpu.cfs_quota_us").write_text(str(round(PERIOD_US * SLOW_SHARE)))
        found = subprocess.run(
            ["ip", "netns", "pids", "h2"], capture_output=True, text=True, check=True
        )
        for pid in found.stdout.split():
            (CGROUP / "cgroup.procs").write_text(pid)
        addresses = re.findall(r"^(h\d) (\S+)$", ended.stdout, re.MULTILINE)
        yield {name: f"root@{address}" for name, address in addresses}
    finally:
        subprocess.run([str(SCRIPT), "down"], capture_output=True, timeout=60)
        if CGROUP.is_dir():
            time.sleep(0.5)
            CGROUP.rmdir()


@pytest.mark.cluster
@pytest.mark.slow
def test_each_host_has_its_own_latency(hosts: dict[str, str]):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3)).eval()

    def measure(name: str) -> float:
        latency = measure_latency(
            model, (3, 256, 256), num_threads=1, engine="onnxruntime", host=hosts[name],
            max_seconds=3.0,
        )  # fmt: skip
        assert latency.hardware["cpu"]
        assert latency.raw_ms == latency.median_ms
        return latency.median_ms

    fast, slow = measure("h1"), measure("h2")
    assert slow > 2 * fast

    subprocess.run([str(SCRIPT), "cut", "1"], check=True)
    mender = threading.Timer(3.0, lambda: subprocess.run([str(SCRIPT), "mend", "1"], check=True))
    mender.start()
    try:
        assert measure("h1") < slow
    finally:
        mender.join()
    subprocess.run([str(SCRIPT), "cut", "2"], check=True)
    with pytest.raises(HostError, match="cannot be reached after 1 attempts"):
        host_module.ask_host(hosts["h2"], {"engine": "onnxruntime", "settings": {}}, {}, 1)
