"""Structured channel pruning with dependency groups, proven against masking."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch_pruning as tp
from numpy.typing import NDArray
from torch import Tensor, nn

from models.channel_selection import count_globally, count_locally, find_lowest, round_width
from models.masking import measure_masking_error
from models.network import SegmentationNetwork
from models.pruning_record import KeptChannels, PruningRecord, get_num_channels, replay
from models.structure import get_resizable_layers

__all__ = ["PruningError", "PruningRecord", "prune", "replay"]

IMPORTANCES = ("bn_scale", "weight")
SCOPES = ("local", "global")
TOLERANCE = 1e-4
_TRACE_SIZE = (64, 96)

_logger = logging.getLogger(__name__)


class PruningError(RuntimeError):
    """A network cannot be pruned correctly; the message names the layers."""


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
    graph, called = _trace(work, torch.zeros(1, 3, *size))
    groups = list(_find_groups(work, graph, importance))
    _check_every_layer_has_a_group(work, graph, groups, called)
    _select(groups, pruning_ratio, scope, round_to)

    removals = _Removals(work)
    parts = [removals.apply(graph, group) for group in groups if group.removed]
    layers = removals.get_kept([step for part in parts for step in part])
    _prove(model, layers, removals, parts, size)

    before = _count(model)
    pruned = copy.deepcopy(model)
    replay(pruned, layers)
    if _count(pruned) >= before:
        widths = {group.name: len(group.scores) for group in groups}
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


@dataclass(kw_only=True, slots=True)
class _Group:
    """Layers that lose the same channels.

    Attributes:
        name: Of the root layer.
        root: The layer whose output channels number the group's.
        prune_root: torch-pruning's function for that.
        outputs: Every layer that loses output channels.
        scores: (C,), one for each set of channels that goes together.
        is_ranked_by_batchnorm: Whether scores compare with those of other groups.
        repeats: A grouped convolution loses the same channels in each of its groups.
        removed: Indices into `scores`.
    """

    name: str
    root: nn.Module
    prune_root: Any
    outputs: tuple[nn.Module, ...]
    scores: NDArray[np.float64]
    is_ranked_by_batchnorm: bool
    repeats: int
    removed: Sequence[int] = ()


def _trace(model: SegmentationNetwork, images: Tensor) -> tuple[tp.DependencyGraph, set[nn.Module]]:
    """Build the graph of dependencies and note which layers the forward pass calls."""
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
    return graph, called


def _find_groups(
    model: SegmentationNetwork, graph: tp.DependencyGraph, importance: str
) -> Iterator[_Group]:
    """Find the groups in the order of the trace, classes excluded."""
    names = {layer: name for name, layer in model.named_modules()}
    for group in graph.get_all_groups(ignored_layers=list(model.get_output_layers())):
        outputs = [dep.layer for dep, _ in group if graph.is_out_channel_pruning_fn(dep.handler)]
        batchnorms = [
            item for item in group.items
            if isinstance(item.dep.layer, nn.BatchNorm2d) and item.dep.layer.affine
        ]  # fmt: skip
        by_batchnorm = importance == "bn_scale" and bool(batchnorms)
        size = len(group[0].idxs)
        scores = _average_over_layers(batchnorms if by_batchnorm else group.items, size, graph)
        repeats = max(_count_repeats(dep.layer) for dep, _ in group)
        yield _Group(
            name=names[group[0].dep.layer],
            root=group[0].dep.layer,
            prune_root=group[0].dep.handler,
            outputs=tuple(outputs),
            scores=scores.reshape(repeats, -1).mean(axis=0),
            is_ranked_by_batchnorm=by_batchnorm,
            repeats=repeats,
        )


def _count_repeats(layer: nn.Module) -> int:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) and layer.groups != layer.out_channels:
        return layer.groups
    return 1


def _average_over_layers(
    items: Sequence[Any], size: int, graph: tp.DependencyGraph
) -> NDArray[np.float64]:
    """Average over the layers |gamma| of a BatchNorm, or the L2 norm of what makes a channel."""
    total, count = torch.zeros(size, dtype=torch.float64), torch.zeros(size, dtype=torch.float64)
    for item in items:
        layer = item.dep.layer
        is_output = graph.is_out_channel_pruning_fn(item.dep.handler)
        if not is_output or not isinstance(layer, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            continue
        weight = layer.weight.detach().double()
        rows = weight.reshape(len(weight), -1)
        roots = torch.tensor(item.root_idxs)
        total.index_add_(0, roots, rows.norm(dim=1)[item.idxs])
        count.index_add_(0, roots, torch.ones(len(roots), dtype=torch.float64))
    scores: NDArray[np.float64] = (total / count.clamp_min(1)).numpy()
    return scores


def _check_every_layer_has_a_group(
    model: SegmentationNetwork, graph: tp.DependencyGraph, groups: Sequence[_Group],
    called: set[nn.Module],
) -> None:  # fmt: skip
    """Raise for layers that the tracer lost: torch-pruning would leave them without a word."""
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


def _select(
    groups: Sequence[_Group], pruning_ratio: float, scope: str, round_to: int | None
) -> None:
    """Choose what each group loses."""
    keeps = {group.name: count_locally(len(group.scores), pruning_ratio) for group in groups}
    if scope == "global":
        ranked = [group for group in groups if group.is_ranked_by_batchnorm]
        counts = count_globally([group.scores for group in ranked], pruning_ratio)
        keeps |= {group.name: count for group, count in zip(ranked, counts, strict=True)}
    for group in groups:
        size = len(group.scores)
        step = None if round_to is None else round_to // math.gcd(round_to, group.repeats)
        keep = round_width(keeps[group.name], size, step)
        group.removed = find_lowest(group.scores, size - keep)


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

    def apply(self, graph: tp.DependencyGraph, group: _Group) -> list[_Step]:
        """Prune one group of the copy."""
        size = len(group.scores)
        channels = [c + i * size for i in range(group.repeats) for c in group.removed]
        pruned = graph.get_pruning_group(group.root, group.prune_root, channels)
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
