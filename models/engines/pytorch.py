"""PyTorch in eager mode."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.engines.batchnorm_folding import fold_batchnorms
from models.engines.engine import Engine, Run, Session
from models.engines.settings import DTYPES, EngineError, EngineSettings
from models.tiny_weights import flush_tiny_weights

TORCH_DTYPES = {name: getattr(torch, name) for name in DTYPES}


class PyTorchSession(Session):
    """A network in PyTorch.

    Args:
        model: Network in eval mode, on the device.
        settings: Settings of the engine.
    """

    image_dtype = "float32"

    def __init__(self, model: nn.Module, settings: EngineSettings) -> None:
        self.model = model
        self.settings = settings

    def place(self, images: NDArray[Any]) -> Tensor:
        """Move images to the device, in the dtype and memory format of the network."""
        placed = torch.from_numpy(images).to(self.settings.device)
        if placed.is_floating_point():
            placed = placed.to(TORCH_DTYPES[self.settings.dtype])
        if self.settings.channels_last:
            placed = placed.contiguous(memory_format=torch.channels_last)
        return placed

    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """See `Session.run`."""
        with torch.inference_mode():
            output: Tensor = self.model(self.place(images))
        return (output.float() if output.is_floating_point() else output).cpu().numpy()

    def make_run(self, images: NDArray[Any]) -> Run:
        """See `Session.make_run`; the images are on the device beforehand."""
        placed = self.place(images)
        timer = _time_on_cuda if placed.device.type == "cuda" else _time_on_clock

        def run() -> float:
            with torch.inference_mode():
                return timer(self.model, placed)

        return run


class PyTorch(Engine):
    """Runs networks in eager mode, with BatchNorms folded on request."""

    name = "pytorch"

    def check(self, settings: EngineSettings) -> None:
        """See `Engine.check`."""
        if settings.device_type == "cuda" and not torch.cuda.is_available():
            raise EngineError(f"PyTorch finds no CUDA device, got device {settings.device}")

    def describe(self, settings: EngineSettings) -> dict[str, Any]:
        """See `Engine.describe`."""
        return {
            "name": self.name,
            "version": torch.__version__,
            "provider": "CUDA" if settings.device_type == "cuda" else "CPU",
            "precision": settings.dtype,
            "num_threads": settings.num_threads,
            "graph_optimization": "BatchNorm folded" if settings.fold_batchnorm else "none",
        }

    def build(
        self, model: nn.Module, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """See `Engine.build`."""
        self.check(settings)
        return PyTorchSession(prepare(model, input_shape, settings), settings)


def prepare(
    model: nn.Module, input_shape: tuple[int, int, int, int], settings: EngineSettings
) -> nn.Module:
    """Copy a network to the device, dtype and memory format of the settings.

    BatchNorms are folded in float32, because rounding in 16 bits would decide which of them are.
    """
    ready = copy.deepcopy(model).eval().to(device=settings.device, dtype=torch.float32)
    if settings.fold_batchnorm:
        generator = torch.Generator().manual_seed(0)
        example = torch.randn(1, *input_shape[1:], generator=generator)
        fold_batchnorms(ready, example.to(settings.device))
    flush_tiny_weights(ready)
    ready = ready.to(dtype=TORCH_DTYPES[settings.dtype])
    return ready.to(memory_format=torch.channels_last) if settings.channels_last else ready


@contextmanager
def quiet(num_threads: int) -> Iterator[None]:
    """Set threads and cuDNN's autotuning during a measurement, and restore them afterwards."""
    threads, benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    try:
        torch.set_num_threads(num_threads)
        torch.backends.cudnn.benchmark = True
        yield
    finally:
        torch.set_num_threads(threads)
        torch.backends.cudnn.benchmark = benchmark


def _time_on_clock(model: nn.Module, images: Tensor) -> float:
    start = time.perf_counter_ns()
    model(images)
    return (time.perf_counter_ns() - start) / 1e6


def _time_on_cuda(model: nn.Module, images: Tensor) -> float:
    start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    start.record()
    model(images)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))
