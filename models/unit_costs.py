"""What the removal of a unit of channels saves."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from models.channels.groups import ChannelGroup, remove_units
from models.channels.record import KeptChannels, count_groups, get_num_channels, replay
from models.channels.widths import get_resizable_layers
from models.cost import count_cost
from models.network import SegmentationNetwork

_Weighted = nn.Conv2d | nn.ConvTranspose2d | nn.Linear


def count_saved_macs(
    model: SegmentationNetwork, groups: Sequence[ChannelGroup], size: tuple[int, int]
) -> Iterator[int]:
    """Count the multiply-accumulates that the removal of one unit of each group saves.

    They are computed from the widths of the layers. A network for which this is wrong, because a
    product outside of these layers depends on their widths too or because it does not run without
    some unit, is counted anew for each group.

    Args:
        model: Network on the CPU.
        groups: Its groups of channels.
        size: Height and width of the image.

    Yields:
        The number of each group; 0 for a group of one unit, which is never removed, and for a group
        without one of whose units the network does not run.
    """
    shape = (3, *size)
    whole, products = _count_products(model, shape)

    def compute(kept: Mapping[str, KeptChannels]) -> int:
        return sum(
            products[name] * _count_lost_pairs(layers[name], channels)
            for name, channels in kept.items()
            if name in products
        )

    def recount(kept: Mapping[str, KeptChannels]) -> int:
        smaller = copy.deepcopy(model)
        try:
            replay(smaller, kept)
            return whole - count_cost(smaller, shape).macs
        except Exception:  # `prune` finds such groups and says why they stay
            return 0

    layers: Mapping[str, Any] = get_resizable_layers(model)
    removable = [group.units[0] for group in groups if len(group.units) > 1]
    together = remove_units(model, removable)
    count = compute if compute(together) == recount(together) else recount
    for group in groups:
        yield count(remove_units(model, [group.units[0]])) if len(group.units) > 1 else 0


def _count_products(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, Mapping[str, int]]:
    """Count the MACs of a network, and of each layer for each pair of an input and an output."""
    products: Counter[str] = Counter()

    def watch(name: str) -> Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]:
        def note(layer: Any, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            images = given[0] if given else named["input"]
            products[name] += _count_uses_of_pair(layer, images, output)

        return note

    hooks = [
        layer.register_forward_hook(watch(name), with_kwargs=True)
        for name, layer in get_resizable_layers(model).items()
        if isinstance(layer, _Weighted)
    ]
    try:
        macs = count_cost(model, shape).macs
    finally:
        for hook in hooks:
            hook.remove()
    return macs, products


def _count_uses_of_pair(layer: _Weighted, images: Tensor, output: Tensor) -> int:
    """Count how often a layer multiplies an input channel for an output channel."""
    if isinstance(layer, nn.Linear):
        return output.numel() // layer.out_features
    kernel = math.prod(layer.kernel_size)
    if isinstance(layer, nn.ConvTranspose2d):
        return images.shape[0] * math.prod(images.shape[2:]) * kernel
    return output.shape[0] * math.prod(output.shape[2:]) * kernel


def _count_lost_pairs(layer: _Weighted, kept: KeptChannels) -> int:
    """Count the pairs of an input and an output channel that a layer loses."""
    inputs, outputs = get_num_channels(layer)
    left = len(kept.inputs) * len(kept.outputs)
    if isinstance(layer, nn.Linear):
        return inputs * outputs - left
    return inputs * outputs // layer.groups - left // count_groups(layer, kept)
