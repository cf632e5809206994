"""Channels that must go together, found by torch-pruning's tracer, and how important they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from models.channels.graph import ChannelGraph, ImageChannels
from models.channels.layers import ChannelLayer
from models.channels.structure import get_resizable_layers
from models.network import SegmentationNetwork

IMPORTANCES = ("bn_scale", "weight")


class PruningError(RuntimeError):
    """A network cannot be pruned correctly; the message names the layers."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelGroup:
    """Channels of equal standing: each ties the same layers together.

    Where a layer reads a concatenation channel by channel (a depthwise convolution), each
    concatenated part is a group of its own, so that none of them vanishes.

    Attributes:
        name: Of the root layer, whose output channels number the group's.
        root: That layer.
        prune_root: torch-pruning's function for its outputs.
        outputs: Every layer that loses output channels with the root.
        units: Those of the root that belong to this group; the channels of a unit only go together
            (a grouped convolution loses the same ones in each of its groups, and where halves are
            split and shuffled, both lose as many).
        scores: One for each unit, higher is more important.
        is_ranked_by_batchnorm: Whether the scores compare with those of other groups.
        smallest_step: The fewest channels that any of the layers loses with a unit.
        num_fixed: Units beside these that are tied to the image and stay.
    """

    name: str
    root: nn.Module
    prune_root: Any
    outputs: tuple[nn.Module, ...]
    units: tuple[tuple[int, ...], ...]
    scores: NDArray[np.float64]
    is_ranked_by_batchnorm: bool
    smallest_step: int
    num_fixed: int

    def get_root_channels(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Turn indices into `scores` to output channels of the root."""
        return tuple(channel for i in indices for channel in self.units[i])


def find_groups(
    model: SegmentationNetwork, images: Tensor, importance: str
) -> tuple[ChannelGraph, list[ChannelGroup]]:
    """Trace a network and find its groups, in the order of the trace, classes excluded.

    Args:
        model: On the CPU; the graph refers to its layers.
        images: (1, 3, H, W) float, whatever the network takes.
        importance: One of `IMPORTANCES`.

    Raises:
        PruningError: The tracer lost a layer; torch-pruning would leave it without a word.
    """
    called: set[nn.Module] = set()
    hooks = [
        layer.register_forward_hook(lambda layer, *_: called.add(layer))
        for layer in get_resizable_layers(model).values()
    ]
    graph = ChannelGraph(model, images)
    for hook in hooks:
        hook.remove()
    names = {layer: name for name, layer in model.named_modules()}
    found = list(graph.get_all_groups(ignored_layers=list(model.get_output_layers())))
    _check_every_layer_has_a_group(model, graph, found, called)
    return graph, [part for group in found for part in _split(group, graph, names, importance)]


def _split(
    group: Any, graph: ChannelGraph, names: dict[nn.Module, str], importance: str
) -> Iterator[ChannelGroup]:
    """Split one of torch-pruning's groups into parts of equal standing."""
    root, size = group[0].dep, len(group[0].idxs)
    items = [item for item in group.items if graph.is_out_channel_pruning_fn(item.dep.handler)]
    batchnorms = [item for item in items if isinstance(item.dep.layer, nn.BatchNorm2d)]
    by_weight, _ = _average_over_layers(items, size)
    by_batchnorm, num_batchnorms = _average_over_layers(batchnorms, size)

    unit_of = _find_units(group.ties, size)
    units = [tuple(np.flatnonzero(unit_of == unit).tolist()) for unit in range(unit_of.max() + 1)]
    standing = np.stack(
        [np.bincount(unit_of[item.root_idxs], minlength=len(units)) for item in items], axis=1
    )
    is_image = [isinstance(item.dep.layer, ImageChannels) for item in items]
    is_fixed: NDArray[np.bool_] = standing[:, is_image].sum(axis=1) > 0
    parts = np.unique(standing, axis=0, return_inverse=True)[1]
    for part in range(parts.max() + 1):
        members = np.flatnonzero(parts == part)
        if is_fixed[members[0]]:
            continue
        counts = standing[members[0]]
        channels = np.array([units[member] for member in members])
        is_ranked = importance == "bn_scale" and bool((num_batchnorms[channels] > 0).all())
        scores = by_batchnorm if is_ranked else by_weight
        yield ChannelGroup(
            name=names[root.layer],
            root=root.layer,
            prune_root=root.handler,
            outputs=tuple(item.dep.layer for item in items),
            units=tuple(units[member] for member in members),
            scores=scores[channels].mean(axis=1),
            is_ranked_by_batchnorm=is_ranked,
            smallest_step=int(counts[counts > 0].min()),
            num_fixed=int(is_fixed.sum()),
        )


def _find_units(ties: Sequence[tuple[int, int]], size: int) -> NDArray[np.intp]:
    """Number the units of a group: for each of its channels the unit it belongs to."""
    labels = np.arange(size)
    for pair in ties:
        low, high = sorted(labels[list(pair)])
        labels[labels == high] = low
    units: NDArray[np.intp] = np.unique(labels, return_inverse=True)[1]
    return units


def _average_over_layers(
    items: Sequence[Any], size: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Average the L2 norms of what makes a channel (|gamma| for a BatchNorm); and count layers."""
    total, count = np.zeros(size), np.zeros(size)
    for item in items:
        weight = getattr(item.dep.layer, "weight", None)
        if not isinstance(weight, Tensor):
            continue
        weight = weight.detach().double()
        if isinstance(item.dep.layer, nn.ConvTranspose2d):
            weight = weight.transpose(0, 1)
        norms = weight.reshape(len(weight), -1).norm(dim=1).numpy()
        np.add.at(total, item.root_idxs, norms[item.idxs])
        np.add.at(count, item.root_idxs, 1)
    return total / np.maximum(count, 1), count


def _check_every_layer_has_a_group(
    model: SegmentationNetwork, graph: ChannelGraph, groups: Sequence[Any], called: set[nn.Module]
) -> None:
    groups = list(groups)
    for layer in model.get_output_layers():
        pruner = graph.get_pruner_of_module(layer)
        channels = list(range(pruner.get_out_channels(layer)))
        groups.append(graph.get_pruning_group(layer, pruner.prune_out_channels, channels))
    covered = {
        dep.layer for group in groups for dep, _ in group
        if graph.is_out_channel_pruning_fn(dep.handler)
    }  # fmt: skip
    inside = {
        part for layer in model.modules() if isinstance(layer, ChannelLayer)
        for part in layer.modules() if part is not layer
    }  # fmt: skip
    lost = [
        name
        for name, layer in get_resizable_layers(model).items()
        if layer in called - covered - inside and not isinstance(layer, nn.PReLU)
    ]
    if lost:
        raise PruningError(f"torch-pruning finds no group for the layers {', '.join(lost)}")
