"""TensorRT through its program trtexec, for devices without PyTorch."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from models.engines.engine import FileEngine, Run, Session
from models.engines.settings import EngineError, EngineSettings

PROGRAM = "trtexec"
USUAL_PLACE = Path("/usr/src/tensorrt/bin/trtexec")  # on a Jetson
MEDIAN = re.compile(r"GPU Compute Time:.*?median = ([0-9.]+) ms")
VERSION = re.compile(r"TensorRT v?([0-9.]+)|\[TensorRT v([0-9]+)\]")


class TrtexecSession(Session):
    """A plan that trtexec runs for half a second at a time.

    Args:
        program: Path of trtexec.
        plan: Path of the plan.
    """

    image_dtype = "uint8"

    def __init__(self, program: str, plan: Path) -> None:
        self.program = program
        self.plan = plan

    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """Raise an error: trtexec times a network and does not return its output."""
        raise EngineError(
            "trtexec times a network and does not return its output; use tensorrt in Python"
        )

    def make_run(self, images: NDArray[Any]) -> Run:
        """See `Session.make_run`: the median over half a second, without copies to the device."""
        command = [
            self.program, f"--loadEngine={self.plan}", "--duration=0.5", "--warmUp=100",
            "--noDataTransfers", "--useSpinWait",
        ]  # fmt: skip
        return lambda: read_median(run_program(command))


class Trtexec(FileEngine):
    """Builds and times plans with trtexec."""

    name = "tensorrt"

    def check(self, settings: EngineSettings) -> None:
        """See `Engine.check`."""
        find_program()

    def describe(self, settings: EngineSettings) -> dict[str, Any]:
        """See `Engine.describe`."""
        answer = run_program([find_program(), "--help"])
        version = VERSION.search(answer)
        return {
            "name": self.name,
            "version": next(filter(None, version.groups()), "") if version else "unknown",
            "provider": "CUDA (trtexec)",
            "precision": settings.dtype,
            "num_threads": settings.num_threads,
            "graph_optimization": "default builder",
        }

    def load(
        self, file: Path | bytes, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """See `FileEngine.load`."""
        if isinstance(file, bytes):
            raise EngineError("trtexec reads files, got bytes")
        plan = file.with_suffix(".plan")
        flags = {"float16": ["--fp16"], "bfloat16": ["--bf16"]}.get(settings.dtype, [])
        program = find_program()
        run_program([program, f"--onnx={file}", f"--saveEngine={plan}", "--skipInference", *flags])
        return TrtexecSession(program, plan)


def find_program() -> str:
    """Return the path of trtexec.

    Raises:
        EngineError: trtexec is not installed.
    """
    program = shutil.which(PROGRAM) or (str(USUAL_PLACE) if USUAL_PLACE.is_file() else None)
    if program is None:
        raise EngineError(
            f"{PROGRAM} is neither on the path nor at {USUAL_PLACE}; install TensorRT"
        )
    return program


def run_program(command: list[str]) -> str:
    """Run trtexec and return its output.

    Raises:
        EngineError: trtexec failed; the message is its last line.
    """
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode != 0:
        lines = (ended.stderr or ended.stdout).strip().splitlines()
        raise EngineError(f"{PROGRAM} failed: {lines[-1] if lines else ended.returncode}")
    return ended.stdout


def read_median(answer: str) -> float:
    """Read the median of the time on the GPU, in ms, from the output of trtexec.

    Raises:
        EngineError: The output has no median.
    """
    found = MEDIAN.search(answer)
    if found is None:
        raise EngineError(f"the output of {PROGRAM} has no median of the GPU compute time")
    return float(found.group(1))
