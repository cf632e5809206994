"""Quantisation by ONNX Runtime: QuantizeLinear and DequantizeLinear around operators."""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
from numpy.typing import NDArray

from models.quantization.quantizer import QuantizationError

_module_path = list(sys.path)
from onnxruntime import quantization  # noqa: E402
from onnxruntime.quantization.shape_inference import quant_pre_process  # noqa: E402

# ONNX Runtime adds a folder to the path that has a `models` of its own; a process that inherits
# the path, by multiprocessing's spawn, would import that one instead of ours.
sys.path[:] = _module_path

FILE = "model.onnx"
CONVOLUTIONS = ("Conv", "ConvTranspose")


class _Images(quantization.CalibrationDataReader):  # type: ignore[misc]
    """Passes one image after another to the library."""

    def __init__(self, name: str, images: Sequence[NDArray[Any]]) -> None:
        self.left: Iterator[dict[str, NDArray[Any]]] = iter([{name: image} for image in images])

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next image, or None at the end."""
        return next(self.left, None)


def quantize_for_onnxruntime(
    file: Path,
    folder: Path,
    images: Sequence[NDArray[Any]],
    kept_float: Sequence[str],
    *,
    only_convolutions: bool = False,
) -> list[str]:
    """Quantise for ONNX Runtime on a CPU: activations in uint8, weights in int8 by channel.

    See `models.quantization.quantizer.Quantizer`.
    """
    return _quantize(
        file, folder, images, kept_float,
        is_symmetric=False, only_convolutions=only_convolutions,
    )  # fmt: skip


def quantize_for_tensorrt(
    file: Path,
    folder: Path,
    images: Sequence[NDArray[Any]],
    kept_float: Sequence[str],
    *,
    only_convolutions: bool = False,
) -> list[str]:
    """Quantise for TensorRT, which supports only symmetric int8.

    See `models.quantization.quantizer.Quantizer`.
    """
    return _quantize(
        file, folder, images, kept_float,
        is_symmetric=True, only_convolutions=only_convolutions,
    )  # fmt: skip


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library's advice, which it writes to the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def _name_ranges(file: Path, images: Sequence[NDArray[Any]], *, is_symmetric: bool) -> Path:
    """Return the path, next to the float file, that stores the ranges found on these images."""
    content = hashlib.sha256(file.read_bytes())
    for image in images:
        content.update(image.tobytes())
    return file.with_name(f"ranges-{content.hexdigest()[:16]}-{is_symmetric:d}.json")


def _quantize(
    file: Path,
    folder: Path,
    images: Sequence[NDArray[Any]],
    kept_float: Sequence[str],
    *,
    is_symmetric: bool,
    only_convolutions: bool,
) -> list[str]:
    kind = quantization.QuantType
    ranges = _name_ranges(file, images, is_symmetric=is_symmetric)
    is_first = not kept_float and not only_convolutions
    with TemporaryDirectory() as scratch, _quiet():
        prepared = Path(scratch) / FILE
        try:
            quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
            input_name = onnx.load(str(prepared)).graph.input[0].name
            quantization.quantize_static(
                str(prepared),
                str(folder / FILE),
                _Images(input_name, images),
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=kind.QInt8 if is_symmetric else kind.QUInt8,
                weight_type=kind.QInt8,
                nodes_to_exclude=list(kept_float),
                op_types_to_quantize=list(CONVOLUTIONS) if only_convolutions else None,
                # Finding the ranges takes the longest, and the first run, with nothing in float,
                # finds all of them.
                calibration_cache_path=ranges if ranges.is_file() or is_first else None,
                extra_options={
                    "ActivationSymmetric": is_symmetric,
                    "WeightSymmetric": True,
                    # TensorRT adds biases in float.
                    "QuantizeBias": not is_symmetric,
                },
            )
        except (ValueError, RuntimeError, AssertionError) as error:
            raise QuantizationError(f"onnxruntime cannot quantise the file: {error}") from error
    return [FILE]
