"""Channels that must go together, found by torch-pruning's tracer, and how important they are."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn

from models.network import SegmentationNetwork
from models.structure import get_resizable_layers

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
        channels: Those of the root that belong to this group, of its first repeat.
        scores: As many, higher is more important.
        is_ranked_by_batchnorm: Whether the scores compare with those of other groups.
        repeats: A grouped convolution loses the same channels in each of its groups.
        stride: From a channel to its next repeat.
    """

    name: str
    root: nn.Module
    prune_root: Any
    outputs: tuple[nn.Module, ...]
    channels: tuple[int, ...]
    scores: NDArray[np.float64]
    is_ranked_by_batchnorm: bool
    repeats: int
    stride: int

    def get_root_channels(self, indices: Sequence[int]) -> tuple[int, ...]:
        """Turn indices into `scores` to output channels of the root, all repeats of them."""
        return tuple(
            self.channels[i] + repeat * self.stride for repeat in range(self.repeats)
            for i in indices
        )  # fmt: skip


def find_groups(
    model: SegmentationNetwork, images: Tensor, importance: str
) -> tuple[tp.DependencyGraph, list[ChannelGroup]]:
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
    graph = tp.DependencyGraph().build_dependency(
        model, images, forward_fn=lambda m, x: m.compute_outputs(x, with_auxiliary=True)
    )
    for hook in hooks:
        hook.remove()
    names = {layer: name for name, layer in model.named_modules()}
    groups = [
        part
        for group in graph.get_all_groups(ignored_layers=list(model.get_output_layers()))
        for part in _split(group, graph, names, importance)
    ]
    _check_every_layer_has_a_group(model, graph, groups, called)
    return graph, groups


def _split(
    group: Any, graph: tp.DependencyGraph, names: dict[nn.Module, str], importance: str
) -> Iterator[ChannelGroup]:
    """Split one of torch-pruning's groups into parts of equal standing."""
    root, size = group[0].dep, len(group[0].idxs)
    repeats = max(_count_repeats(dep.layer) for dep, _ in group)
    items = [item for item in group.items if graph.is_out_channel_pruning_fn(item.dep.handler)]
    batchnorms = [item for item in items if isinstance(item.dep.layer, nn.BatchNorm2d)]
    by_weight, _ = _average_over_layers(items, size)
    by_batchnorm, num_batchnorms = _average_over_layers(batchnorms, size)

    standing = np.zeros((size, len(items)), dtype=bool)
    for column, item in enumerate(items):
        standing[item.root_idxs, column] = True
    parts = np.unique(standing[: size // repeats], axis=0, return_inverse=True)[1]
    for part in range(parts.max() + 1):
        channels = np.flatnonzero(parts == part)
        is_ranked = importance == "bn_scale" and bool((num_batchnorms[channels] > 0).all())
        scores = by_batchnorm if is_ranked else by_weight
        yield ChannelGroup(
            name=names[root.layer],
            root=root.layer,
            prune_root=root.handler,
            outputs=tuple(item.dep.layer for item in items),
            channels=tuple(channels.tolist()),
            scores=scores.reshape(repeats, -1).mean(axis=0)[channels],
            is_ranked_by_batchnorm=is_ranked,
            repeats=repeats,
            stride=size // repeats,
        )


def _count_repeats(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.groups != layer.out_channels:
        return layer.groups
    return 1


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
    model: SegmentationNetwork, graph: tp.DependencyGraph, groups: Sequence[ChannelGroup],
    called: set[nn.Module],
) -> None:  # fmt: skip
    covered = {layer for group in groups for layer in group.outputs}
    for layer in model.get_output_layers():
        pruner = graph.get_pruner_of_module(layer)
        channels = list(range(pruner.get_out_channels(layer)))
        for dep, _ in graph.get_pruning_group(layer, pruner.prune_out_channels, channels):
            covered.add(dep.layer)
    lost = [
        name
        for name, layer in get_resizable_layers(model).items()
        if layer in called and layer not in covered and not isinstance(layer, nn.PReLU)
    ]
    if lost:
        raise PruningError(f"torch-pruning finds no group for the layers {', '.join(lost)}")
