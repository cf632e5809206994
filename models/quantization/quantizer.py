"""The interface of quantisers, which turn a float file into an int8 file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray


class QuantizationError(RuntimeError):
    """A network cannot be quantised; the message says why."""


class Quantizer(Protocol):
    """Quantises a file after training, with ranges found on calibration images."""

    def __call__(
        self,
        file: Path,
        folder: Path,
        images: Sequence[NDArray[Any]],
        kept_float: Sequence[str],
        *,
        only_convolutions: bool = False,
    ) -> list[str]:
        """Write the quantised files.

        Args:
            file: An ONNX file in float32.
            folder: Folder for the files; existing files are replaced.
            images: Calibration images from the training split, each as the file takes it, such as
                (1, 3, H, W) uint8.
            kept_float: Names of the file's nodes that stay in float32.
            only_convolutions: Quantise nothing but convolutions; sums, concatenations and the like
                stay in float32.

        Returns:
            Names of the files, the one that the engine loads first.

        Raises:
            QuantizationError: The library is missing or cannot quantise the file.
        """
