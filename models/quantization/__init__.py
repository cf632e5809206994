"""Quantisation of networks to int8, by the libraries of the engines that run them."""

from __future__ import annotations

from models.quantization.openvino import quantize_for_openvino
from models.quantization.qdq import quantize_for_onnxruntime, quantize_for_tensorrt
from models.quantization.quantizer import QuantizationError, Quantizer

QUANTIZERS: dict[str, Quantizer] = {
    "onnxruntime": quantize_for_onnxruntime,
    "openvino": quantize_for_openvino,
    "tensorrt": quantize_for_tensorrt,
}
"""Quantisers, by the name of the engine that runs the file."""

__all__ = ["QUANTIZERS", "QuantizationError", "Quantizer"]
