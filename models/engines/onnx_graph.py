"""A network as the bytes of an ONNX file, and these bytes run in onnxruntime."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
INPUT = "images"
OUTPUT = "logits"


class ExportError(RuntimeError):
    """The network cannot be exported, or its export computes something else; no file is written."""


class Translation(NamedTuple):
    """A network as ONNX.

    Attributes:
        content: Of the file.
        unpools: Whether it puts values where maxima were found. Of two almost equal values another
            one may then be the maximum in another engine, by rounding alone.
    """

    content: bytes
    unpools: bool


def check_packages() -> None:
    """Ask for the packages that only exporting needs.

    Raises:
        ExportError: One of them is not installed.
    """
    missing = [package for package in PACKAGES if find_spec(package) is None]
    if missing:
        raise ExportError(f"exporting needs {', '.join(missing)}: pip install -e '.[deploy]'")


def translate(
    model: nn.Module, images: Tensor, opset: int, notes: Mapping[str, str]
) -> Translation:
    """Trace a network in eval mode and write what it did as ONNX, in the shape of these images.

    Args:
        model: Returning one tensor.
        images: (N, 3, H, W), of the dtype that the file will take.
        opset: Version of ONNX's operators.
        notes: For the file's metadata.

    Raises:
        ExportError: PyTorch's exporter does not know how.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    try:
        with torch.no_grad():
            program = torch.onnx.export(
                model, (images,), input_names=[INPUT], output_names=[OUTPUT],
                opset_version=opset, dynamo=True, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(f"PyTorch cannot translate the network: {_first_line(error)}") from error
    program = cast("torch.onnx.ONNXProgram", program)
    # The exporter notes for every operator the lines of source that it stems from: a third of a
    # small file, with the paths of this machine.
    ClearMetadataAndDocStringPass()(program.model)
    program.model.metadata_props.update(notes)
    unpools = any(
        node.op_type == "MaxPool" and any(output.uses() for output in node.outputs[1:])
        for node in program.model.graph
    )
    return Translation(program.model_proto.SerializeToString(), unpools)


def run_onnx(content: bytes, images: Tensor) -> Tensor:
    """Compute the logits in onnxruntime on the CPU, with as many threads as PyTorch uses.

    Args:
        content: From `translate`.
        images: Of the shape and dtype that were translated.

    Returns:
        (N, num_classes, H, W).

    Raises:
        ExportError: onnxruntime does not take the file.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        raise ExportError(f"onnxruntime cannot run the export: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    """PyTorch's exporter appends pages of advice, and puts the reason into the cause."""
    return str(error.__cause__ or error).strip().partition("\n")[0]
