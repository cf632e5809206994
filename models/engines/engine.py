"""The interface of inference engines, which prepare and time a network or a file.

This file imports neither PyTorch nor ONNX, so that it also runs on devices without them.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engines.settings import EngineSettings

Run = Callable[[], float]
"""A function that does something once and returns a number, usually its time in milliseconds."""


class Session(ABC):
    """A network that an engine has prepared for images of one size.

    Attributes:
        image_dtype: Dtype of the images that it takes, "float32" or "uint8".
    """

    image_dtype: str

    @abstractmethod
    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """Compute the output.

        Args:
            images: Images of `image_dtype`, (N, 3, H, W).

        Returns:
            The first output: logits (N, num_classes, H, W) or classes (N, H, W).
        """

    def execute(self, images: NDArray[Any]) -> None:
        """Compute the output, without copying it if that is possible; this is what is timed.

        Args:
            images: As for `run`.
        """
        self.run(images)

    def make_run(self, images: NDArray[Any]) -> Run:
        """Return a function that runs the network once on the images and returns milliseconds."""

        def run() -> float:
            start = time.perf_counter_ns()
            self.execute(images)
            return (time.perf_counter_ns() - start) / 1e6

        return run


class Engine(ABC):
    """A way to run networks.

    Attributes:
        name: Key of the engine in `models.engines.ENGINES`.
        reads_files: Whether it runs files, which works on machines without PyTorch too.
    """

    name: str
    reads_files: bool = False

    @abstractmethod
    def check(self, settings: EngineSettings) -> None:
        """Check that the engine is installed and supports the settings.

        Raises:
            EngineError: It does not; the message names the reason and the remedy.
        """

    @abstractmethod
    def describe(self, settings: EngineSettings) -> dict[str, Any]:
        """Describe everything about the engine that a latency depends on, JSON-serialisable.

        Returns:
            `name`, `version`, `provider` (the backend that computes), `precision`, `num_threads`
            and `graph_optimization`.
        """

    @abstractmethod
    def build(
        self, model: Any, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """Prepare a network.

        Args:
            model: A `torch.nn.Module`, which is not changed.
            input_shape: (N, 3, H, W) of the images.
            settings: Settings of the engine.

        Raises:
            EngineError: The engine cannot run the network.
        """


class FileEngine(Engine):
    """An engine that runs files.

    Attributes:
        is_typed: Whether it computes in the dtype of the file; else it reads a float32 file and
            converts it itself.
    """

    reads_files = True
    is_typed: bool = False

    @abstractmethod
    def load(
        self, file: Path | bytes, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """Prepare a file.

        Args:
            file: An ONNX file, its bytes, or a file in the engine's own format.
            input_shape: (N, 3, H, W) of the images.
            settings: Settings of the engine.

        Raises:
            EngineError: The engine cannot run the file.
        """

    def write_files(
        self, file: Path, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> list[str]:
        """Write the engine's own files beside an ONNX file.

        Args:
            file: The ONNX file.
            input_shape: (N, 3, H, W) of the images.
            settings: Settings that it will run with.

        Returns:
            Names of the files, the one to load first; empty if the ONNX file itself is loaded.
        """
        return []

    def build(
        self, model: Any, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """Translate a network to ONNX and prepare that."""
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
    """Draw images of noise, the same at each call.

    Args:
        input_shape: Shape of the images, (N, 3, H, W).
        dtype: "uint8", or any float dtype of NumPy.
    """
    generator = np.random.default_rng(0)
    if dtype == "uint8":
        return generator.integers(0, 256, input_shape, dtype=np.uint8)
    return generator.standard_normal(input_shape, dtype=np.float32).astype(dtype)


def first_line(error: Exception) -> str:
    """Return the first line of an error message."""
    return str(error).strip().partition("\n")[0]
