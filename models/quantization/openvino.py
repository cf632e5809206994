"""Quantisation for OpenVINO, by NNCF."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from models.quantization.quantizer import QuantizationError
from models.signal_stack import kept_signal_stack

FILE = "model.xml"
CONVOLUTIONS = (
    "Convolution", "GroupConvolution", "ConvolutionBackpropData", "GroupConvolutionBackpropData",
)  # fmt: skip


def quantize_for_openvino(
    file: Path,
    folder: Path,
    images: Sequence[NDArray[Any]],
    kept_float: Sequence[str],
    *,
    only_convolutions: bool = False,
) -> list[str]:
    """Quantise for OpenVINO; see `models.quantization.quantizer.Quantizer`."""
    os.environ.setdefault("NNCF_CI", "1")  # otherwise NNCF sends usage statistics
    try:
        import nncf
        import openvino
    except ImportError as error:
        raise QuantizationError(
            f"int8 for OpenVINO needs nncf: pip install -e '.[openvino]' ({error})"
        ) from error
    logging.getLogger("nncf").setLevel(logging.ERROR)
    model = openvino.Core().read_model(str(file))
    known = {node.get_friendly_name(): node.get_type_name() for node in model.get_ops()}
    # OpenVINO splits a convolution with a bias into two operations; the second one keeps the name.
    kept = {n for name in kept_float for n in (name, f"{name}/WithoutBiases")}
    ignored = [
        name
        for name, kind in known.items()
        if name in kept or (only_convolutions and kind not in CONVOLUTIONS)
    ]
    try:
        with kept_signal_stack():
            quantized = nncf.quantize(
                model,
                nncf.Dataset(images),
                preset=nncf.QuantizationPreset.MIXED,
                subset_size=len(images),
                ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            )
    except (RuntimeError, nncf.ValidationError) as error:
        raise QuantizationError(f"nncf cannot quantise the file: {error}") from error
    openvino.save_model(quantized, str(folder / FILE), compress_to_fp16=False)
    return [FILE, FILE.replace(".xml", ".bin")]
