"""What an inference engine is: it makes a network, or a file, ready and times it.

This file knows neither PyTorch nor ONNX, so that it can run on a device that has neither.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engines.settings import EngineSettings
from models.timing.timed_runs import Run


class Session(ABC):
    """A network that an engine has made ready for images of one size.

    Attributes:
        image_dtype: Of the images that it takes: "float32" or "uint8".
    """

    image_dtype: str

    @abstractmethod
    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """Compute the output.

        Args:
            images: (N, 3, H, W) of `image_dtype`.

        Returns:
            The first output: logits (N, num_classes, H, W) or classes (N, H, W).
        """

    def make_run(self, images: NDArray[Any]) -> Run:
        """Make what runs the network on the images once and returns the milliseconds it took."""

        def run() -> float:
            start = time.perf_counter_ns()
            self.run(images)
            return (time.perf_counter_ns() - start) / 1e6

        return run


class Engine(ABC):
    """A way to run networks.

    Attributes:
        name: Its key in `models.engines.ENGINES`.
        reads_files: Whether it runs files, on machines without PyTorch too.
    """

    name: str
    reads_files: bool = False

    @abstractmethod
    def check(self, settings: EngineSettings) -> None:
        """Find out whether the engine is installed and suits the settings.

        Raises:
            EngineError: Names the reason and the remedy.
        """

    @abstractmethod
    def describe(self, settings: EngineSettings) -> dict[str, Any]:
        """Say all that a latency depends on; JSON-able.

        Returns:
            `name`, `version`, `provider` (what computes), `precision`, `num_threads` and
            `graph_optimization`.
        """

    @abstractmethod
    def build(
        self, model: Any, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """Make a network ready.

        Args:
            model: A `torch.nn.Module`; left untouched.
            input_shape: (N, 3, H, W) of the images.
            settings: How.

        Raises:
            EngineError: The engine does not take the network.
        """


class FileEngine(Engine):
    """An engine that runs files.

    Attributes:
        is_typed: Whether it computes in the numbers that the file states; else it reads a file in
            float32 and chooses them itself.
    """

    reads_files = True
    is_typed: bool = False

    @abstractmethod
    def load(
        self, file: Path | bytes, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """Make a file ready.

        Args:
            file: An ONNX file, its bytes, or a file of the engine's own kind.
            input_shape: (N, 3, H, W) of the images.
            settings: How.

        Raises:
            EngineError: The engine does not take the file.
        """

    def write_files(
        self, file: Path, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> list[str]:
        """Write the engine's own files beside an ONNX file.

        Args:
            file: The ONNX file.
            input_shape: (N, 3, H, W) of the images.
            settings: How it is to run.

        Returns:
            Their names, first that which is to be loaded; empty where that is the ONNX file.
        """
        return []

    def build(
        self, model: Any, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """Translate a network to ONNX and make that ready."""
        self.check(settings)
        return self.load(self.translate(model, input_shape, settings), input_shape, settings)

    def translate(
        self, model: Any, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> bytes:
        """Translate a network to the ONNX file that the engine loads; needs PyTorch.

        Raises:
            EngineError: The network cannot be translated.
        """
        from models.engines.deployed_graph import translate_for_engine

        return translate_for_engine(model, input_shape, settings, is_typed=self.is_typed)


def draw_images(input_shape: tuple[int, int, int, int], dtype: str) -> NDArray[Any]:
    """Draw images of noise, the same each time.

    Args:
        input_shape: (N, 3, H, W).
        dtype: "uint8", or any of NumPy's floats.
    """
    generator = np.random.default_rng(0)
    if dtype == "uint8":
        return generator.integers(0, 256, input_shape, dtype=np.uint8)
    return generator.standard_normal(input_shape, dtype=np.float32).astype(dtype)


def first_line(error: Exception) -> str:
    """Shorten what an engine says to its first line."""
    return str(error).strip().partition("\n")[0]
