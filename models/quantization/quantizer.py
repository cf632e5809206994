"""What turns a float file into an int8 one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray


class QuantizationError(RuntimeError):
    """A network cannot be quantised; the message says why."""


class Quantizer(Protocol):
    """Quantises a file after training, from the ranges that it takes on some images."""

    def __call__(
        self, file: Path, folder: Path, images: Sequence[NDArray[Any]], kept_float: Sequence[str]
    ) -> list[str]:
        """Write the quantised files.

        Args:
            file: An ONNX file in float32.
            folder: Where to; may hold files of these names.
            images: Each as the file takes it, such as (1, 3, H, W) uint8: some of the training
                images.
            kept_float: Names of the file's nodes that stay in float32.

        Returns:
            Names of the files, first that which the engine loads.

        Raises:
            QuantizationError: The library is missing or does not take the file.
        """
