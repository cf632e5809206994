"""Inference engines: they run deployed networks, and latency is measured in them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Literal

from models.engines.engine import Engine, FileEngine, Session
from models.engines.onnxruntime import OnnxRuntime
from models.engines.openvino import OpenVino
from models.engines.pytorch import PyTorch
from models.engines.settings import EngineError, EngineSettings
from models.engines.tensorrt import TensorRt
from models.engines.torch_compile import TorchCompile

ENGINES: dict[str, Engine] = {
    "onnxruntime": OnnxRuntime(),
    "openvino": OpenVino(),
    "pytorch": PyTorch(),
    "tensorrt": TensorRt(),
    "torch_compile": TorchCompile(),
}

if TYPE_CHECKING:
    EngineName = str
else:  # so that the command line lists them
    EngineName = Literal[("auto", *ENGINES)]

__all__ = [
    "ENGINES", "Engine", "EngineError", "EngineName", "EngineSettings", "FileEngine", "Session",
    "get_engine", "resolve_device", "resolve_engine",
]  # fmt: skip


def resolve_engine(name: str, device: str, host: str | None = None) -> str:
    """Resolve "auto" to the engine for a device; other names are returned unchanged.

    Args:
        name: A key of `ENGINES`, or "auto": onnxruntime on a CPU; on CUDA tensorrt where that is
            installed, else pytorch; pytorch on any other device.
        device: Name of a torch device.
        host: Another machine that runs the network, where "auto" is onnxruntime; None: this one.

    Raises:
        ValueError: There is no such engine.
    """
    if name == "auto":
        kind = device.partition(":")[0]
        if kind == "cpu" or host is not None:
            return OnnxRuntime.name
        has_tensorrt = kind == "cuda" and find_spec("tensorrt_bindings") is not None
        return TensorRt.name if has_tensorrt else PyTorch.name
    if name not in ENGINES:
        raise ValueError(f"engine must be auto or one of {', '.join(ENGINES)}; got {name!r}")
    return name


def resolve_device(name: str, device: str, host: str | None = None) -> str:
    """Return the device that an engine measures on: on another machine its CPU, but for tensorrt.

    Args:
        name: A key of `ENGINES`, or "auto".
        device: Name of the torch device of this machine's trainings.
        host: Another machine that runs the network; None: this one.

    Raises:
        ValueError: There is no such engine.
    """
    is_here = host is None or resolve_engine(name, device, host) == TensorRt.name
    return device if is_here else "cpu"


def get_engine(name: str, device: str) -> Engine:
    """Look up an engine; see `resolve_engine`."""
    return ENGINES[resolve_engine(name, device)]
