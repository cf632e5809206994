"""Groups of channels that are removed together, and their importance scores."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.channels.importance import IMPORTANCES
from models.channels.record import KeptChannels, get_num_channels
from models.channels.tracing import IMAGE, ChannelTrace, describe_fixed
from models.channels.widths import get_resizable_layers
from models.network import SegmentationNetwork, copy_to_cpu, find_accepted_size


class PruningError(RuntimeError):
    """A network cannot be pruned correctly; the message names the layers."""


class Member(NamedTuple):
    """One channel of a layer.

    Attributes:
        layer: Name of the layer.
        is_output: True for an output channel, False for an input channel.
        channel: Number of the channel in the layer.
    """

    layer: str
    is_output: bool
    channel: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ChannelGroup:
    """Interchangeable units: each consists of equally many channels of the same layers.

    A unit is a set of channels that can only be removed together: the channels of a residual sum,
    the corresponding channels in each group of a grouped convolution, mirrored channels where
    halves are split and shuffled. Where a layer reads a concatenation channel by channel (a
    depthwise convolution), each concatenated part is a separate group, so that none of them is
    removed completely.

    Attributes:
        name: Name of the first layer whose output channels are in the group; names of all such
            layers where groups share the first one.
        units: The members of each unit.
        scores: Importance of each unit; higher is more important.
        is_comparable: Whether the scores can be compared with those of other groups.
        smallest_step: Smallest number of output channels that a layer loses with one unit.
        num_fixed: Number of further units of that first layer, which always stay.
    """

    name: str
    units: tuple[tuple[Member, ...], ...]
    scores: NDArray[np.float64]
    is_comparable: bool
    smallest_step: int
    num_fixed: int


class ChannelGroups(NamedTuple):
    """All channels that can be removed, in the order of the forward pass, and those that cannot.

    Attributes:
        groups: The groups; they are disjoint.
        fixed: Reason for each layer with channels that must stay. Channels that are tied to the
            image or that are the classes are not listed.
    """

    groups: list[ChannelGroup]
    fixed: dict[str, str]


def find_groups(
    model: SegmentationNetwork,
    images: Tensor,
    importance: str,
    *,
    measured: Mapping[str, Tensor] | None = None,
) -> ChannelGroups:
    """Trace a network and find its groups.

    Args:
        model: Network on the CPU.
        images: Any images that the network accepts, (1, 3, H, W) float.
        importance: A key of `IMPORTANCES`.
        measured: Measured scores by layer name, (C,) for its output channels; needed for an
            importance that has no scoring function.

    Raises:
        ValueError: Measured scores are needed and missing, or they belong to another network.
    """
    trace = trace_channels(model, images)
    classes = _collect_classes(trace)
    free = {
        root: unit for root, unit in classes.items() if trace.partition.get_reason(root) is None
    }
    order = {name: position for position, name in enumerate(trace.outputs)}
    alike: dict[tuple[tuple[int, int], ...], list[tuple[Member, ...]]] = defaultdict(list)
    for unit in free.values():
        counts = Counter(order[m.layer] for m in unit if m.is_output)
        if counts:
            alike[tuple(sorted(counts.items()))].append(unit)
    image_units = Counter(
        name
        for root, unit in classes.items()
        if trace.partition.get_reason(root) == IMAGE
        for name in {m.layer for m in unit if m.is_output}
    )
    names = list(trace.outputs)
    scores = _score_layers(model, importance, measured)
    groups = []
    shared_roots = Counter(standing[0][0] for standing in alike)
    fixed = dict(describe_fixed(trace))
    for standing, units in sorted(alike.items(), key=lambda item: item[0]):
        root = names[standing[0][0]]
        if len(units) == 1 and max(count for _, count in standing) > 1:
            together = "its channels could only be removed all together"
            fixed |= {names[number]: together for number, count in standing if count > 1}
            continue
        values, is_comparable = _score_units(units, scores, importance)
        groups.append(
            ChannelGroup(
                name=root if shared_roots[standing[0][0]] == 1 else _join_names(standing, names),
                units=tuple(units),
                scores=values,
                is_comparable=is_comparable,
                smallest_step=min(count for _, count in standing),
                num_fixed=image_units[root],
            )
        )
    for name, layer in get_resizable_layers(model).items():
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            continue  # one slope for all channels
        if name not in trace.outputs and not _is_part_of_another(name, trace.outputs):
            fixed[name] = "the forward pass never calls it"
    return ChannelGroups(groups, fixed)


@torch.no_grad()
def trace_channels(model: SegmentationNetwork, images: Tensor) -> ChannelTrace:
    """Follow the channels of a network through its forward passes, auxiliary heads included.

    Args:
        model: Network on the CPU.
        images: Any images that the network accepts, (1, 3, H, W) float.
    """
    trace = ChannelTrace(model)
    for computes in model.get_modes():
        with computes(), trace:
            traced = images.clone()
            trace.mark(traced)
            for logits in model.compute_outputs(traced, with_auxiliary=True):
                trace.fix_classes(logits)
    return trace


_FOLLOWING = (nn.BatchNorm2d, nn.InstanceNorm2d, nn.PReLU)
"""Layers whose outputs are their inputs, channel by channel."""


def find_output_layers(model: SegmentationNetwork) -> tuple[str, ...]:
    """Find the layers whose output channels are the classes.

    Args:
        model: Network on any device; not changed.

    Raises:
        ValueError: No image size is found that the network accepts.
    """
    work = copy_to_cpu(model)
    trace = trace_channels(work, torch.zeros(1, 3, *find_accepted_size(work)))
    classes = trace.find_classes()
    return tuple(
        name
        for name, outputs in trace.outputs.items()
        if all(trace.partition.find(int(c)) in classes for c in outputs.tolist())
        and not isinstance(model.get_submodule(name), _FOLLOWING)
    )


def remove_units(model: nn.Module, units: Sequence[tuple[Member, ...]]) -> dict[str, KeptChannels]:
    """Return the channels that each changed layer keeps when units are removed."""
    gone: dict[tuple[str, bool], set[int]] = defaultdict(set)
    for unit in units:
        for member in unit:
            gone[member.layer, member.is_output].add(member.channel)
    layers = get_resizable_layers(model)
    kept = {}
    for name in sorted({name for name, _ in gone}):
        inputs, outputs = (
            tuple(c for c in range(size) if c not in gone.get((name, is_output), ()))
            for is_output, size in zip((False, True), get_num_channels(layers[name]), strict=True)
        )
        kept[name] = KeptChannels(inputs=inputs, outputs=outputs)
    return kept


def _collect_classes(trace: ChannelTrace) -> dict[int, tuple[Member, ...]]:
    """Return the members of each class of channels, in the order of the forward pass."""
    classes: dict[int, list[Member]] = defaultdict(list)
    for name in trace.outputs:
        for is_output, channels in ((False, trace.inputs[name]), (True, trace.outputs[name])):
            for number, channel in enumerate(channels.tolist()):
                classes[trace.partition.find(int(channel))].append(Member(name, is_output, number))
    return {root: tuple(members) for root, members in classes.items()}


def _join_names(standing: Sequence[tuple[int, int]], names: Sequence[str]) -> str:
    """Name a group by all its layers, and by how many channels of each a unit has if not one."""
    return ", ".join(names[n] + (f" x {count}" if count > 1 else "") for n, count in standing)


def _is_part_of_another(name: str, called: Mapping[str, Tensor]) -> bool:
    """Whether a layer is part of a layer that is pruned as a whole, such as an attention layer."""
    parents = name.split(".")[:-1]
    return any(".".join(parents[: i + 1]) in called for i in range(len(parents)))


_Scores = Mapping[str, dict[str, NDArray[np.float64]]]


def _score_layers(
    model: nn.Module, importance: str, measured: Mapping[str, Tensor] | None
) -> _Scores:
    """Return the scores of every layer's output channels, by importance and layer."""
    layers = get_resizable_layers(model)
    scores: dict[str, dict[str, NDArray[np.float64]]] = {}
    for key in {importance, "group_l2"}:
        score = IMPORTANCES[key].score
        if score is None:
            scores[key] = check_measured(layers, key, measured)
            continue
        scores[key] = {}
        for name, layer in layers.items():
            found = score(layer)
            if found is not None and len(found) == get_num_channels(layer)[1]:
                scores[key][name] = found.double().cpu().numpy()
    return scores


def check_measured(
    layers: Mapping[str, nn.Module], importance: str, measured: Mapping[str, Tensor] | None
) -> dict[str, NDArray[np.float64]]:
    """Check measured scores and convert them to the form of computed ones.

    Raises:
        ValueError: There are no scores, or they belong to another network.
    """
    if measured is None:
        raise ValueError(
            f"importance {importance!r} needs scores that are measured by running the network "
            "(trainables.learning.taylor.score_by_taylor); got None"
        )
    for name, scores in measured.items():
        size = get_num_channels(layers[name])[1] if name in layers else None
        if tuple(scores.shape) != (size,):
            raise ValueError(
                f"the measured scores belong to another network: {name} has {size} output channels "
                f"here, but its scores have the shape {tuple(scores.shape)}"
            )
    return {name: scores.double().cpu().numpy() for name, scores in measured.items()}


def _score_units(
    units: Sequence[tuple[Member, ...]], scores: _Scores, importance: str
) -> tuple[NDArray[np.float64], bool]:
    """Average (or add) over the channels of each unit; fall back to "group_l2" without scores."""
    for key in (importance, "group_l2"):
        found = [
            [float(scores[key][m.layer][m.channel]) for m in unit
             if m.is_output and m.layer in scores[key]]
            for unit in units
        ]  # fmt: skip
        if all(found):
            is_comparable = key == importance and IMPORTANCES[key].is_comparable
            combine = np.sum if IMPORTANCES[key].is_additive else np.mean
            return np.array([combine(values) for values in found]), is_comparable
    return np.zeros(len(units)), False
