"""The layers whose width can change, and how to read and set their width."""

from __future__ import annotations

from torch import nn

from models.blocks.attention import EfficientChannelAttention, PlaceWeights, SpatialAttention
from models.blocks.channel_layers import ChannelHalf, ChannelShuffle, ChannelSum, ChannelTotal

_CHANNELS = ("in_channels", "out_channels")
_CONVOLUTION = (*_CHANNELS, "groups")
WIDTH_ATTRIBUTES: dict[type[nn.Module], tuple[str, ...]] = {
    nn.Conv2d: _CONVOLUTION,
    nn.ConvTranspose2d: _CONVOLUTION,
    nn.Linear: ("in_features", "out_features"),
    nn.BatchNorm2d: ("num_features",),
    nn.InstanceNorm2d: ("num_features",),
    nn.PReLU: ("num_parameters",),
    EfficientChannelAttention: _CHANNELS,
    SpatialAttention: _CHANNELS,
    PlaceWeights: _CHANNELS,
    ChannelShuffle: _CHANNELS,
    ChannelHalf: (*_CHANNELS, "start"),
    ChannelSum: _CHANNELS,
    ChannelTotal: _CHANNELS,
}
"""The layers whose width can change, and the attributes that hold it."""


def get_resizable_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the layers of `WIDTH_ATTRIBUTES` by name."""
    kinds = tuple(WIDTH_ATTRIBUTES)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}


def get_width(layer: nn.Module) -> tuple[int, ...]:
    """Return the layer's values of its `WIDTH_ATTRIBUTES`."""
    return tuple(getattr(layer, attribute) for attribute in _attributes(layer))


def set_width(layer: nn.Module, width: tuple[int, ...]) -> None:
    """Set the width attributes only; the caller replaces the tensors."""
    for attribute, value in zip(_attributes(layer), width, strict=True):
        setattr(layer, attribute, value)


def _attributes(layer: nn.Module) -> tuple[str, ...]:
    for kind, attributes in WIDTH_ATTRIBUTES.items():
        if isinstance(layer, kind):
            return attributes
    raise ValueError(f"the width of a {type(layer).__name__} cannot be changed")
