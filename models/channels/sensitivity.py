"""How sensitive a network is to each group of channels, and how much of each to prune."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.channels.selection import SMALLEST_SHARE


@dataclass(frozen=True, kw_only=True, slots=True)
class GroupSensitivity:
    """Loss and mIoU of a network after parts of one group are masked, with the rest unchanged.

    Attributes:
        name: Name of the group (`models.channels.groups.ChannelGroup.name`).
        size: Number of its units: channels, or sets of channels that are removed together.
        macs: Multiply-accumulates that removing one unit saves.
        ratios: Fractions of the units that were masked, ascending, in 0..1.
        losses: Cross-entropy in nats at each ratio.
        mious: mIoU in 0..1 at each ratio.
    """

    name: str
    size: int
    macs: int
    ratios: tuple[float, ...]
    losses: tuple[float, ...]
    mious: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """Result of a sensitivity scan of a whole network.

    Attributes:
        loss: Cross-entropy of the unmasked network on the same images, in nats.
        miou: mIoU of the unmasked network on the same images, in 0..1.
        num_images: Number of images that were evaluated.
        groups: Sensitivity of each group, in the order of `models.channels.groups.find_groups`.
        joint_ratios: Fractions that were masked in all groups at once.
        joint_mious: mIoU in 0..1 at each of these.
        seconds: Duration of the scan.
        warnings: Warnings for the user, one sentence each.
    """

    loss: float
    miou: float
    num_images: int
    groups: tuple[GroupSensitivity, ...]
    joint_ratios: tuple[float, ...]
    joint_mious: tuple[float, ...]
    seconds: float
    warnings: tuple[str, ...]

    def to_json(self) -> str:
        """Write as JSON, the same text for the same scan."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Sensitivity:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is not a sensitivity scan.
        """
        try:
            content = json.loads(text)
            groups = tuple(GroupSensitivity(**_with_tuples(g)) for g in content.pop("groups"))
            return cls(groups=groups, **_with_tuples(content))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the scan of a network's sensitivity: {error!r}") from error


def count_by_sensitivity(sensitivity: Sensitivity, pruning_ratio: float) -> list[int]:
    """Count the channels that each group keeps, to save a fraction of the MACs at the least loss.

    The loss of each group is interpolated between the ratios of the scan and replaced by its lower
    convex hull. The losses of the groups are assumed to be independent, so they add up. Channels
    are then removed one by one, always where the next one costs the least loss per saved
    multiply-accumulate. Every group keeps at least a sixteenth of its channels, as in
    `count_globally`.

    Source: greedy allocation by marginal returns: Fox, "Discrete optimization via marginal
        analysis", Management Science 13(3), 1966.

    Args:
        sensitivity: Scan of the unpruned network.
        pruning_ratio: In (0, 1), the fraction of all channels to remove, each weighted by its
            multiply-accumulates: the saving of a network whose groups all lose that fraction.

    Returns:
        The number of channels that each group keeps. Up to a ratio of 7/8 it never grows with the
        ratio.
    """
    groups = sensitivity.groups
    share = min(SMALLEST_SHARE, (1 - pruning_ratio) / 2)
    savings = np.array([max(1, group.macs) for group in groups])
    candidates = []  # loss per multiply-accumulate, how deep into the group, which group
    for number, group in enumerate(groups):
        spare = group.size - max(1, math.ceil(group.size * share))
        prices = _price_channels(group, sensitivity.loss)[:spare] / savings[number]
        # Equal prices are taken from all groups alternately, so that free groups are pruned evenly.
        candidates += [(price, i / group.size, number) for i, price in enumerate(prices)]
    candidates.sort()
    keeps = [group.size for group in groups]
    work = float(np.dot(savings, keeps))
    goal = (1 - pruning_ratio) * work * (1 + 1e-9)
    for _, _, number in candidates:
        if work <= goal:
            break
        keeps[number] -= 1
        work -= float(savings[number])
    return keeps


def _price_channels(group: GroupSensitivity, loss: float) -> NDArray[np.float64]:
    """Return the cost of each further channel of a group in nats, (size,), non-decreasing."""
    if not group.ratios:  # a group of one channel, which is kept
        return np.zeros(group.size)
    ratios = np.array([0.0, *group.ratios])
    losses = np.maximum.accumulate(np.array([0.0, *(value - loss for value in group.losses)]))
    if ratios[-1] < 1:  # extrapolate linearly beyond the last ratio
        slope = (losses[-1] - losses[-2]) / (ratios[-1] - ratios[-2])
        ratios, losses = (
            np.append(ratios, 1.0),
            np.append(losses, losses[-1] + slope * (1 - ratios[-1])),
        )
    corners = _lower_hull(ratios, losses)
    at = np.arange(group.size + 1) / group.size
    return np.diff(np.interp(at, ratios[corners], losses[corners]))


def _lower_hull(x: NDArray[np.float64], y: NDArray[np.float64]) -> list[int]:
    """Indices of the points of the convex hull's lower side, by Andrew's monotone chain."""
    hull: list[int] = []
    for i in range(len(x)):
        while len(hull) > 1:
            a, b = hull[-2], hull[-1]
            if (y[b] - y[a]) * (x[i] - x[a]) <= (y[i] - y[a]) * (x[b] - x[a]):
                break
            hull.pop()
        hull.append(i)
    return hull


def _with_tuples(content: dict[str, object]) -> dict[str, Any]:
    return {key: tuple(v) if isinstance(v, list) else v for key, v in content.items()}
