"""What the removal of a unit of channels saves."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from models.channels.groups import ChannelGroup, remove_units
from models.channels.record import replay
from models.cost import count_cost
from models.network import SegmentationNetwork


def count_saved_macs(
    model: SegmentationNetwork, groups: Sequence[ChannelGroup], size: tuple[int, int]
) -> Iterator[int]:
    """Count the multiply-accumulates that the removal of one unit of each group saves.

    Args:
        model: Network on the CPU.
        groups: Its groups of channels.
        size: Height and width of the image.

    Yields:
        The number of each group; 0 for a group of one unit, which is never removed, and for a group
        without one of whose units the network does not run.
    """
    whole = count_cost(model, (3, *size)).macs
    for group in groups:
        if len(group.units) == 1:
            yield 0
            continue
        smaller = copy.deepcopy(model)
        try:
            replay(smaller, remove_units(model, [group.units[0]]))
            saved = whole - count_cost(smaller, (3, *size)).macs
        except Exception:  # `prune` finds such groups and says why they stay
            saved = 0
        yield saved
