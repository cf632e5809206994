"""Structured channel pruning with dependency groups, checked against masking."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.channels.groups import (
    ChannelGroup,
    Member,
    PruningError,
    check_measured,
    find_groups,
    remove_units,
)
from models.channels.importance import IMPORTANCES
from models.channels.masking import measure_masking_error
from models.channels.record import PruningRecord, replay
from models.channels.selection import count_globally, count_locally, find_lowest, round_width
from models.channels.sensitivity import Sensitivity, count_by_sensitivity
from models.channels.widths import get_resizable_layers
from models.network import SegmentationNetwork, copy_to_cpu
from models.unit_costs import count_saved_macs

__all__ = ["IMPORTANCES", "PruningError", "PruningRecord", "prune", "replay"]

SCOPES = ("local", "global", "global_macs", "sensitivity")
TOLERANCES = {torch.float64: 1e-4, torch.float32: 1e-3}
_TRACE_SIZE = (64, 96)
_MAX_NAMES = 5

_logger = logging.getLogger(__name__)


def prune(
    model: nn.Module,
    example_input: Tensor,
    pruning_ratio: float = 0.5,
    scope: str = "local",
    round_to: int | None = None,
    importance: str = "bn_scale",
    *,
    measured: Mapping[str, Tensor] | None = None,
    sensitivity: Sensitivity | None = None,
    original: SegmentationNetwork | None = None,
) -> PruningRecord:
    """Remove channels from a network in place; it keeps its device, and its train or eval mode.

    Channels that depend on each other (a residual sum, a depthwise convolution) form a unit and are
    removed together. A group of units without any BatchNorm is ranked by its weights and only
    within itself. Classes are never pruned. Before the network is changed, a pruned copy is
    compared with a masked one. Layers that cannot be pruned, or where the two differ, are left
    whole; they are logged as warnings and listed in the record.

    Source: importance: Liu et al., "Network slimming", https://arxiv.org/abs/1708.06519; groups:
        Fang et al., "DepGraph", https://arxiv.org/abs/2301.12900.
    Differs: a group's importance is the mean |gamma| over its BatchNorms; with "global" every layer
        keeps some channels. Channels, not layers, depend on each other: each is followed through
        every operation of a forward pass (`models.channels.tracing`).

    Args:
        model: Network from `models.create_model`. Its parameters are replaced, so create the
            optimiser afterwards.
        example_input: Image that the network accepts, (N, 3, H, W) float. Only its size is used,
            and at most 64 x 96 of it unless the network needs more.
        pruning_ratio: Fraction of channels to remove, in (0, 1): of each group for "local", of all
            channels for "global", of all channels weighted by multiply-accumulates for
            "global_macs", and likewise of the scanned network for "sensitivity".
        scope: "local" ranks within each group, "global" over all groups with comparable scores.
            "global_macs" does so too, but prefers to remove channels that save many
            multiply-accumulates.
            "sensitivity" ranks within each group and removes as many from each as the scan
            suggests.
        round_to: Widths are rounded to the nearest multiple of this number; narrower groups stay as
            they are.
        importance: A key of `models.channels.importance.IMPORTANCES`.
        measured: Scores by layer name, each (C,), for "taylor".
        sensitivity: For "sensitivity": scan of this network, or of the same network before it was
            pruned.
        original: The network before its first pruning, if this is not the first: the ratio then
            refers to its channels. "sensitivity" needs only the scan.

    Returns:
        The record of the kept channels, which `replay` applies to another network with the same
        layers, and of the layers that were left whole, with reasons.

    Raises:
        ValueError: An argument is out of range.
        PruningError: Nothing can be removed (the message names layers and reasons), or the network
            does not run. The network is unchanged.
    """
    if not isinstance(model, SegmentationNetwork):
        raise ValueError(f"model must be a SegmentationNetwork, got a {type(model).__name__}")
    _check_arguments(example_input, pruning_ratio, scope, round_to, importance)
    if (scope == "sensitivity") != (sensitivity is not None):
        raise ValueError(
            "a sensitivity scan (trainables.sensitivity) must be given for scope 'sensitivity' "
            "only; got "
            f"scope {scope!r} and {'no' if sensitivity is None else 'a'} scan"
        )
    if IMPORTANCES[importance].score is None:
        check_measured(get_resizable_layers(model), importance, measured)
    work = copy_to_cpu(model)
    size, dtype = find_traced_size(work, (example_input.shape[2], example_input.shape[3]))
    try:
        found = find_groups(work, torch.zeros(1, 3, *size), importance, measured=measured)
    except Exception as error:  # a user's network may raise any exception
        raise PruningError(
            f"the network's channels cannot be followed: {type(error).__name__}: {error}"
        ) from error
    unprunable = dict(found.fixed)
    whole, before = work, found.groups
    if original is not None:
        whole = copy_to_cpu(original)
        before = find_groups(whole, torch.zeros(1, 3, *size), "group_l2").groups
    is_weighted = scope == "global_macs"
    macs = count_saved_macs(whole, before, size) if is_weighted else [1] * len(before)
    sizes = {group.name: _Size(len(group.units), n) for group, n in zip(before, macs, strict=True)}
    keeps = _count_kept(found.groups, pruning_ratio, scope, sizes, sensitivity)
    chosen = _select(found.groups, keeps, round_to)
    parts = [
        _Part(group.name, units) for group, units in zip(found.groups, chosen, strict=True) if units
    ]
    proven = _prove(work, parts, unprunable, size, dtype)
    layers = remove_units(work, [unit for part in proven for unit in part.units])

    num_params = _count(model)
    replay(work, layers)
    if _count(work) >= num_params:
        raise PruningError(_explain_nothing(work, found.groups, unprunable))
    replay(model, layers)
    _warn_of_unprunable(unprunable)
    _logger.info("pruned %d of %d groups: %d -> %d parameters", len(proven), len(found.groups),
                 num_params, _count(model))  # fmt: skip
    return PruningRecord(
        pruning_ratio=pruning_ratio,
        scope=scope,
        round_to=round_to,
        importance=importance,
        num_params_before=num_params,
        num_params_after=_count(model),
        layers=layers,
        unprunable=unprunable,
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
        raise ValueError(f"importance must be one of {', '.join(IMPORTANCES)}; got {importance!r}")


@torch.no_grad()
def find_traced_size(
    model: SegmentationNetwork, largest: tuple[int, int]
) -> tuple[tuple[int, int], torch.dtype]:
    """Find a small image size at which a network is traced, and the dtype that it computes in.

    Args:
        model: Network on the CPU in eval mode; it is converted to float64 and back to float32.
        largest: Height and width of an image that the network accepts.

    Returns:
        Height and width, and float64 unless the network only runs in float32.

    Raises:
        PruningError: The network does not run on the image.
    """
    small = min(largest[0], _TRACE_SIZE[0]), min(largest[1], _TRACE_SIZE[1])
    failure: Exception | None = None
    for size in dict.fromkeys((small, largest)):
        for dtype in (torch.float64, torch.float32):
            try:
                model.to(dtype)(torch.zeros(1, 3, *size, dtype=dtype))
            except Exception as error:
                failure = error
            else:
                return size, dtype
            finally:
                model.float()  # exact: its float32 values went through float64
    raise PruningError(
        f"the network does not run on an image of {largest[0]} x {largest[1]}: {failure!r}"
    ) from failure


class _Size(NamedTuple):
    """The size of a group before the first pruning.

    Attributes:
        units: Number of units.
        macs: Multiply-accumulates that the removal of one of them saves; 1 if these do not count.
    """

    units: int
    macs: int = 1


def _count_kept(
    groups: Sequence[ChannelGroup],
    pruning_ratio: float,
    scope: str,
    sizes: Mapping[str, _Size],
    sensitivity: Sensitivity | None,
) -> list[int]:
    """Count the units that each group keeps, before rounding.

    Args:
        groups: Groups of the network as it is.
        pruning_ratio: Fraction to remove of the network before its first pruning.
        scope: One of `SCOPES`.
        sizes: Sizes before the first pruning, by group.
        sensitivity: Scan for scope "sensitivity".
    """
    if sensitivity is not None:
        _check_scan(groups, sensitivity)
        counts = count_by_sensitivity(sensitivity, pruning_ratio)
        return [min(len(g.scores), n) for g, n in zip(groups, counts, strict=True)]
    before = [sizes.get(group.name, _Size(len(group.units))) for group in groups]
    keeps = [
        min(len(group.units), count_locally(size.units, pruning_ratio))
        for group, size in zip(groups, before, strict=True)
    ]
    if scope in ("global", "global_macs"):
        ranked = [i for i, group in enumerate(groups) if group.is_comparable]
        counts = [len(groups[i].units) for i in ranked]
        macs = [before[i].macs for i in ranked]
        whole = sum(before[i].units * before[i].macs for i in ranked)
        left = sum(count * n for count, n in zip(counts, macs, strict=True))
        if left < whole:
            pruning_ratio = 1 - (1 - pruning_ratio) * whole / left
        if pruning_ratio > 0:
            counts = count_globally([groups[i].scores for i in ranked], pruning_ratio, macs)
        for i, count in zip(ranked, counts, strict=True):
            keeps[i] = count
    return keeps


def _check_scan(groups: Sequence[ChannelGroup], sensitivity: Sensitivity) -> None:
    """Check that a scan belongs to this network, now or before it was pruned.

    Raises:
        ValueError: The scan belongs to another network.
    """
    names = [group.name for group in groups]
    scanned = [group.name for group in sensitivity.groups]
    if names != scanned:
        odd = sorted(set(names) ^ set(scanned)) or ["their order"]
        raise ValueError(
            f"the sensitivity scan belongs to another network: it has {len(scanned)} groups of "
            f"channels, but this one has {len(names)}; they differ in {', '.join(odd[:_MAX_NAMES])}"
        )


def _select(
    groups: Sequence[ChannelGroup], keeps: Sequence[int], round_to: int | None
) -> list[tuple[tuple[Member, ...], ...]]:
    """Choose the units that each group loses."""
    chosen = []
    for group, keep in zip(groups, keeps, strict=True):
        size, fixed = len(group.scores), group.num_fixed
        step = None if round_to is None else round_to // math.gcd(round_to, group.smallest_step)
        width = max(1, round_width(keep + fixed, size + fixed, step) - fixed)
        lowest = find_lowest(group.scores, size - width)
        chosen.append(tuple(group.units[i] for i in lowest))
    return chosen


class _Part(NamedTuple):
    """The units that one group loses."""

    name: str
    units: tuple[tuple[Member, ...], ...]


def _prove(
    model: SegmentationNetwork, parts: Sequence[_Part], unprunable: dict[str, str],
    size: tuple[int, int], dtype: torch.dtype,
) -> list[_Part]:  # fmt: skip
    """Compare with masking; drop groups that differ, and add them to `unprunable`.

    Faulty groups are found by bisection, so that few faults among many groups cost little.
    """
    failures: dict[int, str] = {}

    def fails(numbers: Sequence[int], *, thorough: bool = False) -> str:
        layers = remove_units(model, [unit for i in numbers for unit in parts[i].units])
        try:
            change = measure_masking_error(model, layers, size, dtype=dtype, thorough=thorough)
        except Exception as error:
            return f"the pruned network does not run ({type(error).__name__}: {error})"
        if change <= TOLERANCES[dtype]:
            return ""
        return f"the pruned network differs from the masked one (relative error {change:.2g})"

    left = list(range(len(parts)))
    while left and fails(left, thorough=True):
        guilty = _find_guilty(left, fails, failures)
        left = [i for i in left if i not in guilty]
    for i, reason in failures.items():
        for name in sorted({m.layer for unit in parts[i].units for m in unit if m.is_output}):
            unprunable.setdefault(name, " ".join(reason.split()))
    return [parts[i] for i in left]


def _find_guilty(
    numbers: Sequence[int], fails: Callable[..., str], failures: dict[int, str]
) -> set[int]:
    """Find groups to drop so that the others may agree, at least one; adds to `failures`."""
    pending, guilty = [list(numbers)], set()
    while pending:
        some = pending.pop()
        # All groups together are known to fail. A half may pass, because some groups fail only
        # together.
        reason = fails(some) if len(some) < len(numbers) or len(some) == 1 else "all together"
        if reason and len(some) > 1:
            pending += [some[: len(some) // 2], some[len(some) // 2 :]]
        elif reason:
            guilty.add(some[0])
            failures[some[0]] = reason
    if not guilty:
        guilty.add(numbers[-1])
        failures[numbers[-1]] = "it can be pruned alone, but not together with the others"
    return guilty


def _explain_nothing(
    model: nn.Module, groups: Sequence[ChannelGroup], unprunable: Mapping[str, str]
) -> str:
    if not get_resizable_layers(model):
        return (
            "no channel could be removed: the network has no Conv2d, ConvTranspose2d or Linear "
            "layer; if it comes from TorchScript or torch.export, it can only be a teacher, and a "
            "student must be built by its Python code"
        )
    if not groups and not unprunable:
        return (
            "no channel could be removed: the network has no convolution and no linear layer "
            "besides those that give the classes"
        )
    widths = [(group.name, len(group.scores)) for group in groups]
    message = f"no channel could be removed; the groups and their widths: {widths}"
    if unprunable:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in unprunable.items())
        message += f"; layers that cannot be pruned: {reasons}"
    return message


def _warn_of_unprunable(unprunable: Mapping[str, str]) -> None:
    """Log the layers, grouped by reason."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in unprunable.items():
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        _logger.warning("left whole: %s%s; %s", ", ".join(names[:_MAX_NAMES]), more, reason)


def _count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())
