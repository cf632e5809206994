"""Structured channel pruning with dependency groups, proven against masking."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from models.channels.graph import ChannelGraph
from models.channels.groups import IMPORTANCES, ChannelGroup, PruningError, find_groups
from models.channels.masking import measure_masking_error
from models.channels.record import KeptChannels, PruningRecord, get_num_channels, replay
from models.channels.selection import count_globally, count_locally, find_lowest, round_width
from models.channels.structure import get_resizable_layers
from models.network import SegmentationNetwork

__all__ = ["PruningError", "PruningRecord", "prune", "replay"]

SCOPES = ("local", "global")
TOLERANCE = 1e-4
_TRACE_SIZE = (64, 96)

_logger = logging.getLogger(__name__)


def prune(
    model: nn.Module,
    example_input: Tensor,
    pruning_ratio: float = 0.5,
    scope: Literal["local", "global"] = "local",
    round_to: int | None = None,
    importance: Literal["bn_scale", "weight"] = "bn_scale",
) -> PruningRecord:
    """Remove channels from a network in place; it keeps its device, and its train or eval mode.

    Layers that must lose the same channels (a residual sum, a depthwise convolution) form a group
    and lose them together. A group without any BatchNorm is ranked by its weights, always within
    itself. The classes are never pruned. Before the network is touched, a pruned copy is compared
    with a masked one.

    Source: importance: Liu et al., "Network slimming", https://arxiv.org/abs/1708.06519; groups:
        Fang et al., "DepGraph", https://arxiv.org/abs/2301.12900, through torch-pruning.
    Differs: a group's importance is the mean |gamma| over its BatchNorms; with "global" no layer
        vanishes (torch-pruning leaves such a layer unpruned).

    Args:
        model: From `models.create_model`. Parameters are replaced, so make the optimiser after.
        example_input: (N, 3, H, W) float, an image that the network takes; its values are not
            used, and no more than 64 x 96 of it.
        pruning_ratio: Fraction of channels to remove, in (0, 1): of each group if local, of all
            if global.
        scope: "local" ranks within each group, "global" over all groups with a BatchNorm.
        round_to: Makes widths multiples of this (the nearest; narrower groups stay as they are).
        importance: "bn_scale", or "weight": the L2 norm of the weights that make a channel.

    Returns:
        The channels kept, which `replay` removes from another network of the same layers.

    Raises:
        ValueError: An argument is out of range.
        PruningError: A layer cannot be pruned, the pruned network differs from the masked one, or
            nothing was removed. The network is as it was.
    """
    if not isinstance(model, SegmentationNetwork):
        raise ValueError(f"model must be a SegmentationNetwork, got a {type(model).__name__}")
    _check_arguments(example_input, pruning_ratio, scope, round_to, importance)
    work = copy.deepcopy(model).cpu().float().requires_grad_(True)
    size = (
        min(example_input.shape[2], _TRACE_SIZE[0]),
        min(example_input.shape[3], _TRACE_SIZE[1]),
    )
    graph, groups = find_groups(work, torch.zeros(1, 3, *size), importance)
    chosen = _select(groups, pruning_ratio, scope, round_to)
    removals = _Removals(work)
    parts = [
        removals.apply(graph, group, channels)
        for group, channels in zip(groups, chosen, strict=True)
        if channels
    ]
    layers = removals.get_kept([step for part in parts for step in part])
    _prove(model, layers, removals, parts, size)

    before = _count(model)
    pruned = copy.deepcopy(model)
    replay(pruned, layers)
    if _count(pruned) >= before:
        widths = [(group.name, len(group.scores)) for group in groups]
        raise PruningError(f"no channel could be removed; the groups and their widths: {widths}")
    replay(model, layers)
    _logger.info("pruned %d of %d groups: %d -> %d parameters", len(parts), len(groups), before,
                 _count(model))  # fmt: skip
    return PruningRecord(
        pruning_ratio=pruning_ratio,
        scope=scope,
        round_to=round_to,
        importance=importance,
        num_params_before=before,
        num_params_after=_count(model),
        layers=layers,
    )


def _check_arguments(
    example_input: Tensor, pruning_ratio: float, scope: str, round_to: int | None, importance: str
) -> None:
    shape = tuple(example_input.shape)
    if len(shape) != 4 or shape[1] != 3 or min(shape[2:]) < 64:
        raise ValueError(f"example_input must be (N, 3, H, W), H and W at least 64; got {shape}")
    if not 0 < pruning_ratio < 1:
        raise ValueError(f"pruning_ratio must be in (0, 1), got {pruning_ratio!r}")
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {SCOPES}, got {scope!r}")
    if round_to is not None and round_to < 1:
        raise ValueError(f"round_to must be None or at least 1, got {round_to!r}")
    if importance not in IMPORTANCES:
        raise ValueError(f"importance must be one of {IMPORTANCES}, got {importance!r}")


def _select(
    groups: Sequence[ChannelGroup], pruning_ratio: float, scope: str, round_to: int | None
) -> list[tuple[int, ...]]:
    """Choose what each group loses."""
    keeps = [count_locally(len(group.scores), pruning_ratio) for group in groups]
    if scope == "global":
        ranked = [i for i, group in enumerate(groups) if group.is_ranked_by_batchnorm]
        counts = count_globally([groups[i].scores for i in ranked], pruning_ratio)
        for i, count in zip(ranked, counts, strict=True):
            keeps[i] = count
    chosen = []
    for group, keep in zip(groups, keeps, strict=True):
        size, fixed = len(group.scores), group.num_fixed
        step = None if round_to is None else round_to // math.gcd(round_to, group.smallest_step)
        width = max(1, round_width(keep + fixed, size + fixed, step) - fixed)
        lowest = find_lowest(group.scores, size - width)
        chosen.append(group.get_root_channels(lowest))
    return chosen


_Step = tuple[str, bool, frozenset[int]]
"""Layer, whether outputs (else inputs), and channels removed, numbered as in the unpruned one."""


class _Removals:
    """Lets torch-pruning prune a copy and notes what it removes, numbered as before any pruning."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {layer: name for name, layer in get_resizable_layers(model).items()}
        self._sizes = {name: get_num_channels(layer) for layer, name in self._names.items()}
        self._left = {
            (name, is_output): list(range(sizes[is_output]))
            for name, sizes in self._sizes.items()
            for is_output in (False, True)
        }

    def apply(
        self, graph: ChannelGraph, group: ChannelGroup, channels: Sequence[int]
    ) -> list[_Step]:
        """Prune one group of the copy; the channels are the root's before any pruning."""
        position = {c: i for i, c in enumerate(self._left[group.name, True])}
        indices = [position[c] for c in channels]
        pruned = graph.get_pruning_group(group.root, group.prune_root, indices)
        if not graph.check_pruning_group(pruned):
            raise PruningError(f"pruning {group.name} would leave a layer without channels")
        steps: list[_Step] = []
        for dep, indices in pruned:
            name = self._names.get(dep.layer)
            if isinstance(dep.layer, nn.Parameter):
                raise PruningError(f"{group.name} is tied to a bare parameter, not to a layer")
            if name is None:
                continue
            for is_output, affects in (
                (True, graph.is_out_channel_pruning_fn(dep.handler)),
                (False, graph.is_in_channel_pruning_fn(dep.handler)),
            ):
                if affects:
                    left = self._left[name, is_output]
                    gone = frozenset(left[i] for i in indices)
                    self._left[name, is_output] = [c for c in left if c not in gone]
                    steps.append((name, is_output, gone))
        pruned.prune(record_history=False)
        return steps

    def get_kept(self, steps: Sequence[_Step]) -> dict[str, KeptChannels]:
        """Turn removals into what each layer keeps."""
        gone: dict[tuple[str, bool], set[int]] = {}
        for name, is_output, channels in steps:
            gone.setdefault((name, is_output), set()).update(channels)
        kept = {}
        for name in sorted({name for name, _ in gone}):
            inputs, outputs = (
                tuple(c for c in range(size) if c not in gone.get((name, is_output), ()))
                for is_output, size in zip((False, True), self._sizes[name], strict=True)
            )
            kept[name] = KeptChannels(inputs=inputs, outputs=outputs)
        return kept


def _prove(
    model: SegmentationNetwork, layers: Mapping[str, KeptChannels], removals: _Removals,
    parts: Sequence[Sequence[_Step]], size: tuple[int, int],
) -> None:  # fmt: skip
    """Compare with masking; on a difference prune the groups one by one to name the guilty."""
    error = _measure_error(model, layers, size)
    if error <= TOLERANCE:
        return
    guilty = [
        part[0][0] for part in parts
        if _measure_error(model, removals.get_kept(part), size) > TOLERANCE
    ]  # fmt: skip
    raise PruningError(
        f"the pruned network differs from the masked one (relative error {error:.2g}, allowed "
        f"{TOLERANCE:g}); layers that could not be pruned: {', '.join(guilty) or 'only together'}"
    )


def _measure_error(
    model: SegmentationNetwork, layers: Mapping[str, KeptChannels], size: tuple[int, int]
) -> float:
    try:
        return measure_masking_error(model, layers, size)
    except (RuntimeError, ValueError) as error:
        _logger.warning("the pruned network does not run: %s", error)
        return math.inf


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
