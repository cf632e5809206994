"""Translation of a network to the bytes of an ONNX file."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from models.engines.plain_tracing import DataDependentError, PlainlyTraced
from models.tiny_weights import SMALLEST

INPUT = "images"
OPSETS = range(11, 24)
DEFAULT_OPSET = 17
_TRACED_OPSETS = range(11, 21)  # opsets of PyTorch's tracing exporter
_EXPORTED_OPSETS = range(18, 24)  # of its newer exporter, which takes ten times as long


class ExportError(RuntimeError):
    """The network cannot be exported, or its export computes something else; nothing is written."""


class Translation(NamedTuple):
    """A network as ONNX.

    Attributes:
        content: Content of the file.
        unpools: Whether it unpools values to the positions of maxima. By rounding alone, another of
            two almost equal values may then be the maximum in another engine.
    """

    content: bytes
    unpools: bool


def translate(
    model: nn.Module,
    images: Tensor,
    opset: int = DEFAULT_OPSET,
    notes: Mapping[str, str] | None = None,
    *,
    output: str = "logits",
    has_dynamic_batch: bool = False,
) -> Translation:
    """Translate a network in eval mode to ONNX, for images of one height and width.

    Tiny weights become zero (`models.tiny_weights`), also those that PyTorch's exporter makes when
    it multiplies a convolution by its BatchNorm.

    Args:
        model: Network that returns one tensor.
        images: Example images, (N, 3, H, W), of the dtype that the file will take.
        opset: Version of ONNX's operators, one of `OPSETS`.
        notes: Entries of the file's metadata.
        output: Name of the file's output.
        has_dynamic_batch: Whether the file takes any number of images rather than exactly N.

    Raises:
        ExportError: PyTorch's exporters cannot translate the network.
    """
    if opset in _TRACED_OPSETS:
        try:
            proto = _trace(model, images, opset, output, has_dynamic_batch)
        except DataDependentError as error:
            raise ExportError(f"PyTorch cannot translate the network: {error}") from error
        except Exception as error:  # an operator that this exporter lacks raises any kind of error
            if opset not in _EXPORTED_OPSETS:
                raise ExportError(
                    f"PyTorch cannot translate the network at opset {opset}, try 18 to 23: "
                    f"{_first_line(error)}"
                ) from error
            proto = _export(model, images, opset, output, has_dynamic_batch)
    else:
        proto = _export(model, images, opset, output, has_dynamic_batch)
    _flush_tiny_weights(proto)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, dict(notes or {}))
    used = {name for node in proto.graph.node for name in node.input}
    unpools = any(
        node.op_type == "MaxPool" and any(name in used for name in node.output[1:])
        for node in proto.graph.node
    )
    return Translation(proto.SerializeToString(), unpools)


def _trace(
    model: nn.Module, images: Tensor, opset: int, output: str, has_dynamic_batch: bool
) -> onnx.ModelProto:
    axes = {INPUT: {0: "batch"}, output: {0: "batch"}} if has_dynamic_batch else None
    file = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about constants, and that this exporter is deprecated
        torch.onnx.export(
            PlainlyTraced(model, fixes_sizes=not has_dynamic_batch).eval(), (images,),
            cast("Any", file), input_names=[INPUT], output_names=[output], opset_version=opset,
            dynamic_axes=axes, dynamo=False,
        )  # fmt: skip
    proto = onnx.load_from_string(file.getvalue())
    for node in proto.graph.node:
        node.doc_string = ""
    return proto


def _export(
    model: nn.Module, images: Tensor, opset: int, output: str, has_dynamic_batch: bool
) -> onnx.ModelProto:
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    shapes = ({0: torch.export.Dim("batch")},) if has_dynamic_batch else None
    if has_dynamic_batch and len(images) == 1:
        images = images.repeat(2, 1, 1, 1)  # a batch of 1 would become a constant
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns about the exporter itself
    try:
        with torch.no_grad():
            program = torch.onnx.export(
                model, (images,), input_names=[INPUT], output_names=[output], opset_version=opset,
                dynamic_shapes=shapes, dynamo=True, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"PyTorch cannot translate the network: {_first_line(error)}") from error
    program = cast("torch.onnx.ONNXProgram", program)
    # For every operator, the exporter writes the source lines that it comes from. They fill a third
    # of a small file and contain paths of this machine.
    ClearMetadataAndDocStringPass()(program.model)
    return program.model_proto


def _flush_tiny_weights(proto: onnx.ModelProto) -> None:
    for tensor in proto.graph.initializer:
        # A single number is no weight, and may be tiny for a reason.
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.dims:
            weights = onnx.numpy_helper.to_array(tensor)
            is_tiny = (weights != 0) & (np.abs(weights) < SMALLEST)
            if is_tiny.any():
                flushed = np.where(is_tiny, np.float32(0), weights)
                tensor.CopyFrom(onnx.numpy_helper.from_array(flushed, tensor.name))


def _first_line(error: Exception) -> str:
    """Return the reason: PyTorch's exporter puts it into the cause and appends pages of advice."""
    return str(error.__cause__ or error).strip().partition("\n")[0]
