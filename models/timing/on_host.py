"""The program that times a network on another machine; needs Python, NumPy and the engine.

`models.timing.host` packs this file and those that it imports into one archive and sends it.
"""

from __future__ import annotations

import fcntl
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from models.engines.engine import FileEngine, Run, draw_images
from models.engines.settings import EngineError, EngineSettings
from models.machine import ask_nvidia_smi, describe_machine, read_cpu_clocks
from models.timing.timed_runs import Precision, time_runs

ENGINES = {
    "onnxruntime": ("models.engines.onnxruntime", "OnnxRuntime"),
    "openvino": ("models.engines.openvino", "OpenVino"),
    "tensorrt": ("models.engines.trtexec", "Trtexec"),
}
LOCK_FILE = "segfront-latency.lock"


def get_host_engine(name: str) -> FileEngine:
    """Return an engine in the form that runs on a machine without PyTorch."""
    module, kind = ENGINES[name]
    engine: FileEngine = getattr(import_module(module), kind)()
    return engine


@contextmanager
def alone() -> Iterator[None]:
    """Wait until no other measurement runs on this machine, and hold the lock meanwhile."""
    path = Path(tempfile.gettempdir()) / LOCK_FILE
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def answer(task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Describe the machine and its engine, and time a network if the task names one.

    Args:
        task: `engine` and `settings`; for a measurement also `shape`, `precision`, `network` and
            `reference` (names of files; None without a reference) and `nominal_ms`.
        folder: Folder of the files.

    Returns:
        `engine`, `hardware`, and for a measurement `timing` and `clocks`.

    Raises:
        EngineError: The engine is missing or cannot run the network.
    """
    engine = get_host_engine(task["engine"])
    settings = EngineSettings(**task["settings"])
    engine.check(settings)
    machine: dict[str, Any] = describe_machine()
    if task["engine"] == "tensorrt":
        machine["gpu"] = ask_nvidia_smi(["name"]) or None
    found: dict[str, Any] = {"engine": engine.describe(settings), "hardware": machine}
    if "network" not in task:
        return found
    shape = tuple(task["shape"])

    def make_run(name: str) -> Run:
        session = engine.load(folder / name, shape, settings)
        return session.make_run(draw_images(shape, session.image_dtype))

    with alone():
        run = make_run(task["network"])
        run_reference = make_run(task["reference"]) if task["reference"] else None
        timing = time_runs(run, Precision(**task["precision"]), run_reference, task["nominal_ms"])
        return {**found, "timing": asdict(timing), "clocks": read_cpu_clocks()}


def main() -> int:
    """Read task.json from the folder in the arguments, and print the answer as JSON.

    Returns:
        Exit status: 0, or 3 after an error of the engine, with the reason on standard error.
    """
    folder = Path(sys.argv[1])
    try:
        print(json.dumps(answer(json.loads((folder / "task.json").read_text()), folder)))
    except EngineError as error:
        print(error, file=sys.stderr)
        return 3
    return 0
