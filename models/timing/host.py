"""Measures latency over ssh on the machine that will run a network."""

from __future__ import annotations

import functools
import io
import json
import os
import shlex
import subprocess
import tarfile
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.engines.settings import EngineError
from models.timing.on_host import ENGINES

MODULES = (
    "machine.py", "signal_stack.py", "engines/engine.py", "engines/onnxruntime.py",
    "engines/openvino.py", "engines/settings.py", "engines/trtexec.py", "timing/median_interval.py",
    "timing/on_host.py", "timing/timed_runs.py",
)  # fmt: skip
SSH_VARIABLE = "SEGFRONT_SSH"
SSH_OPTIONS = (
    "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o",
    "ServerAliveCountMax=3",
)  # fmt: skip
CONNECTION_LOST = 255  # ssh's own exit status
NUM_TRIES = 6
FIRST_PAUSE_SECONDS = 2.0
ON_HOST = (
    'folder=$(mktemp -d) && trap "rm -rf $folder" EXIT && tar -xf - -C "$folder" '
    '&& python3 "$folder/measure.pyz" "$folder"'
)


class HostError(EngineError):
    """The machine cannot be reached or cannot measure; the message names it."""


@functools.cache
def describe_host(host: str, engine: str, settings: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Ask a machine, once per process, for a description of its hardware and engine.

    Args:
        host: Name of the machine as in ssh, such as user@device.
        engine: A key of `models.timing.on_host.ENGINES`.
        settings: The items of `dataclasses.asdict` of the engine's settings.

    Returns:
        A mapping with `engine` and `hardware`.

    Raises:
        HostError: As for `ask_host`.
    """
    return ask_host(host, {"engine": engine, "settings": dict(settings)}, {})


def ask_host(
    host: str, task: Mapping[str, Any], files: Mapping[str, bytes], num_tries: int = NUM_TRIES
) -> dict[str, Any]:
    """Send files and a task to a machine, run the task there, and return its answer.

    After a lost connection it tries again, with growing pauses.

    Args:
        host: Name of the machine as in ssh. The environment variable SEGFRONT_SSH can replace the
            command "ssh".
        task: Task for `models.timing.on_host.answer`.
        files: Contents of the files by name.
        num_tries: Number of attempts to connect.

    Raises:
        HostError: The machine cannot be reached, lacks Python or the engine, or the engine cannot
            run the network.
    """
    if task["engine"] not in ENGINES:
        raise HostError(
            f"{task['engine']} runs no files, so {host} cannot measure it: choose "
            f"{', '.join(ENGINES)}"
        )
    archive = _pack({**files, "task.json": json.dumps(dict(task)).encode()})
    ssh = shlex.split(os.environ.get(SSH_VARIABLE, "ssh"))
    command = [*ssh, *SSH_OPTIONS, host, ON_HOST]
    for attempt in range(num_tries):
        ended = subprocess.run(command, input=archive, capture_output=True, check=False)  # noqa: S603
        if ended.returncode == 0:
            found: dict[str, Any] = json.loads(ended.stdout)
            return found
        lines = ended.stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {ended.returncode}"
        if ended.returncode != CONNECTION_LOST:
            raise HostError(f"{host} cannot measure: {reason}")
        if attempt + 1 < num_tries:
            time.sleep(FIRST_PAUSE_SECONDS * 2**attempt)
    raise HostError(f"{host} cannot be reached after {num_tries} attempts: {reason}")


def _pack(files: Mapping[str, bytes]) -> bytes:
    """Pack the files and the program into a tar archive."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in {**files, "measure.pyz": _pack_program()}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def _pack_program() -> bytes:
    """Pack the modules that need no PyTorch into one zip file that Python can run."""
    root = Path(__file__).parents[1]
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in ("models", "models/engines", "models/timing"):
            archive.writestr(f"{name}/__init__.py", "")
        for name in MODULES:
            archive.writestr(f"models/{name}", (root / name).read_text())
        main = "import sys\nfrom models.timing.on_host import main\nsys.exit(main())\n"
        archive.writestr("__main__.py", main)
    return packed.getvalue()
