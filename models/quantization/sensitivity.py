"""Ranks layers by the harm of rounding, and finds their nodes in the ONNX file."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import onnx
import torch
from torch import Tensor, nn

from models.quantization.fake_quantization import FakeQuantization, find_convolutions


@torch.no_grad()
def rank_layers(model: nn.Module, images: Sequence[Tensor]) -> list[tuple[str, float]]:
    """Round one convolution at a time, and measure the change of the logits.

    Args:
        model: Network with BatchNorms folded; not changed.
        images: A few input images, each (1, 3, H, W).

    Returns:
        Name and harm of each layer, most harmful first. The harm is the norm of the logits' change
        relative to the norm of the logits, averaged over the images.
    """
    model = copy.deepcopy(model).eval()
    expected = [model(image) for image in images]
    rounding = FakeQuantization(model)
    with rounding.only(set()):
        for image in images:
            model(image)  # finds the ranges
    for layer in rounding.layers.values():
        layer.observes = False
    harms = {}
    for name in rounding.layers:
        with rounding.only({name}):
            changes = [
                ((model(image) - logits).norm() / logits.norm()).item()
                for image, logits in zip(images, expected, strict=True)
            ]
        harms[name] = sum(changes) / len(changes)
    return sorted(harms.items(), key=lambda entry: -entry[1])


def find_nodes(model: nn.Module, content: bytes) -> dict[str, list[str]]:
    """Find the nodes of an ONNX file for the convolutions of a network, by their weights.

    Args:
        model: Network that was exported, with BatchNorms folded.
        content: Content of the ONNX file.

    Returns:
        Names of the nodes by the name of the layer; an empty list for a layer that the file lacks.
    """
    graph = onnx.load_from_string(content).graph
    weights = {
        onnx.numpy_helper.to_array(tensor).tobytes(): tensor.name for tensor in graph.initializer
    }
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        if node.op_type in ("Conv", "ConvTranspose"):
            readers.setdefault(node.input[1], []).append(node.name)
    found = {}
    for name, layer in find_convolutions(model).items():
        key = layer.weight.detach().float().cpu().contiguous().numpy().tobytes()
        found[name] = readers.get(weights.get(key, ""), [])
    return found
