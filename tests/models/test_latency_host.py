"""Latency on another machine: the file is sent, timed there alone, and the machine recorded."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import latency as latency_module
from models.engines import EngineError, EngineSettings
from models.engines.trtexec import Trtexec, read_median
from models.latency import Reference, measure_latency
from models.timing import host as host_module
from models.timing.host import MODULES, HostError, ask_host, describe_host
from models.timing.on_host import ENGINES

SHAPE = (3, 64, 96)
WITHOUT_PROJECT = """
import sys
for name in ('torch', 'onnx', 'pandas'):
    sys.modules[name] = None
sys.meta_path[:] = [finder for finder in sys.meta_path if '__editable__' not in repr(finder)]
"""
TASK = {"engine": "onnxruntime", "settings": asdict(EngineSettings())}


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 4, 3)).eval()


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Stands for ssh: the command runs here, in a Python that lacks PyTorch and this project."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(WITHOUT_PROJECT)
    python = f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} "$@"\n'
    (folder / "python3").write_text(python)
    # "ssh OPTIONS HOST COMMAND", failing as a lost connection does while the file lost is there.
    script = f"""#!/bin/sh
echo x >> {tmp_path}/calls
if [ -s {tmp_path}/lost ]; then
  sed -i 1d {tmp_path}/lost
  echo "ssh: connect to host: No route to host" >&2
  exit 255
fi
for command; do :; done
cd / && PATH={folder}:$PATH exec sh -c "$command"
"""
    (folder / "ssh").write_text(script)
    for name in ("python3", "ssh"):
        (folder / name).chmod(0o755)
    monkeypatch.setenv("SEGFRONT_SSH", str(folder / "ssh"))
    monkeypatch.setattr(host_module, "FIRST_PAUSE_SECONDS", 0.01)
    describe_host.cache_clear()
    return tmp_path


def count_calls(folder: Path) -> int:
    return len((folder / "calls").read_text().splitlines())


@pytest.mark.parametrize(
    "engine",
    [
        "onnxruntime",
        pytest.param(
            "openvino",
            marks=pytest.mark.skipif(find_spec("openvino") is None, reason="no openvino here"),
        ),
    ],
)
def test_a_file_is_timed_there_by_one_program(engine: str, ssh: Path, model: nn.Module):
    latency = measure_latency(
        model, SHAPE, num_threads=1, engine=engine, host="user@device", fold_batchnorm=True,
        max_seconds=0.5, reference=Reference(model, 7.0),
    )  # fmt: skip
    assert latency.median_ms == pytest.approx(7.0, rel=0.4)
    assert latency.raw_ms > 0
    assert latency.reference_ms is not None
    assert latency.engine["name"] == engine
    assert latency.hardware["cpu"]
    assert "torch" not in latency.hardware  # it was not this process that measured
    assert count_calls(ssh) == 1
    json.dumps(asdict(latency))
    path = ssh / "net.onnx"
    path.write_bytes(b"no graph")
    with pytest.raises(HostError, match=f"user@device cannot measure: {engine} cannot load"):
        measure_latency(path, SHAPE, engine=engine, host="user@device")


def test_all_that_the_sent_modules_import_is_sent_too():
    root = Path(host_module.__file__).parents[1]
    sent = {f"models.{Path(name).with_suffix('').as_posix().replace('/', '.')}" for name in MODULES}
    imported = {
        node.module
        for name in MODULES
        for node in ast.parse((root / name).read_text()).body
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("models")
    }
    assert imported <= sent
    assert {module for module, _ in ENGINES.values()} <= sent


def test_a_plan_of_this_gpu_is_not_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "model.plan").write_bytes(b"for this GPU")
    (tmp_path / "model.onnx").write_bytes(b"for any")

    def refuse(host: str, task: dict[str, Any], files: dict[str, bytes]) -> None:
        assert task["network"] == "network.onnx"
        assert files == {"network.onnx": b"for any"}
        raise HostError("asked")

    monkeypatch.setattr(latency_module, "ask_host", refuse)
    with pytest.raises(HostError, match="asked"):
        measure_latency(tmp_path / "model.plan", SHAPE, "cuda", engine="tensorrt", host="device")


def test_a_lost_connection_is_tried_again(ssh: Path):
    (ssh / "lost").write_text("x\nx\n")
    assert ask_host("device", TASK, {})["engine"]["name"] == "onnxruntime"
    assert count_calls(ssh) == 3
    (ssh / "lost").write_text("x\n" * 9)
    with pytest.raises(HostError, match=r"device cannot be reached after 3 attempts: .*No route"):
        ask_host("device", TASK, {}, num_tries=3)


def test_a_machine_is_asked_once_what_it_is(ssh: Path):
    items = tuple(asdict(EngineSettings()).items())
    first = describe_host("device", "onnxruntime", items)
    assert describe_host("device", "onnxruntime", items) == first
    assert first["hardware"]["num_cpus"] >= 1
    assert count_calls(ssh) == 1


def test_measurements_on_a_machine_take_turns(ssh: Path, model: nn.Module, tmp_path: Path):
    from models.timing.on_host import LOCK_FILE

    lock = Path("/tmp") / LOCK_FILE
    holder = subprocess.Popen(
        ["flock", str(lock), "sh", "-c", "echo held; sleep 3"], stdout=subprocess.PIPE
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    started = time.monotonic()
    measure_latency(
        model, SHAPE, num_threads=1, engine="auto", host="device", min_runs=1, max_runs=1
    )
    assert time.monotonic() - started > 2
    assert holder.wait() == 0


def test_an_engine_without_files_cannot_be_sent(model: nn.Module):
    with pytest.raises(HostError, match="pytorch runs no files, so device cannot measure"):
        measure_latency(model, SHAPE, engine="pytorch", host="device")


def test_trtexec_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    says = (
        "[11/26/2026-03:00:00] [I] Latency: min = 2.1 ms, max = 3 ms, mean = 2.2 ms, median = 2.2"
        " ms, percentile(90%) = 2.3 ms\n[11/26/2026-03:00:00] [I] GPU Compute Time: min = 1.9 ms, "
        "max = 2.4 ms, mean = 2.01 ms, median = 1.98755 ms, percentile(99%) = 2.2 ms"
    )
    assert read_median(says) == 1.98755
    with pytest.raises(EngineError, match="has no median"):
        read_median("&&&& FAILED TensorRT.trtexec")
    program = tmp_path / "trtexec"
    program.write_text(f"#!/bin/sh\ncase $1 in --help) echo 'TensorRT v8502';; esac\necho '{says}'")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    settings = EngineSettings(device="cuda", dtype="float16")
    assert Trtexec().describe(settings)["version"] == "8502"
    session = Trtexec().load(tmp_path / "net.onnx", (1, *SHAPE), settings)
    assert session.make_run(None)() == 1.98755
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    with pytest.raises(EngineError, match="trtexec is neither on the path"):
        Trtexec().check(settings)
