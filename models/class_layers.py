"""Replaces the class layers of a trained network, for other classes."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from models.foreign import ForeignNetwork
from models.network import (
    SegmentationNetwork,
    copy_to_cpu,
    find_accepted_size,
    name_output_layers,
)


def renew_class_layers(model: SegmentationNetwork, num_classes: int) -> None:
    """Replace the layers whose outputs are the classes, in place, by new ones with random weights.

    Args:
        model: Network, pruned or not; all its other layers stay.
        num_classes: Number of classes of the new layers.

    Raises:
        ValueError: More of the network than its last layers depends on the number of classes.
    """
    size = find_accepted_size(copy_to_cpu(model))
    for name in name_output_layers(model):
        model.set_submodule(name, _make_alike(name, model.get_submodule(name), num_classes))
    model.kwargs = {k: v for k, v in model.kwargs.items() if k != "outputs"}
    model.kwargs = {**model.kwargs, "num_classes": num_classes}
    model.outputs = None
    if isinstance(model, ForeignNetwork):
        model.num_classes = num_classes
    try:
        with torch.no_grad():
            found = copy_to_cpu(model)(torch.zeros(1, 3, *size)).shape[1]
    except Exception as error:  # a user's network may raise any exception
        raise ValueError(_explain(model, str(error))) from error
    if found != num_classes:
        raise ValueError(_explain(model, f"its output has {found} channels"))


def _explain(model: SegmentationNetwork, reason: str) -> str:
    return (
        f"the classes of {model.name} cannot be exchanged, because not only its last layers depend "
        f"on their number: {reason}"
    )


def _make_alike(name: str, layer: nn.Module, num_outputs: int) -> nn.Module:
    has_bias = getattr(layer, "bias", None) is not None
    if isinstance(layer, nn.Linear):
        return nn.Linear(layer.in_features, num_outputs, bias=has_bias)
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.groups == 1:
        shared = ("kernel_size", "stride", "padding", "dilation", "padding_mode")
        options: dict[str, Any] = {key: getattr(layer, key) for key in shared}
        if isinstance(layer, nn.ConvTranspose2d):
            options["output_padding"] = layer.output_padding
        kind = nn.ConvTranspose2d if isinstance(layer, nn.ConvTranspose2d) else nn.Conv2d
        return kind(layer.in_channels, num_outputs, bias=has_bias, **options)
    raise ValueError(f"{name} outputs the classes, but a {type(layer).__name__} cannot be renewed")
