"""A partition of channels into classes that are removed together, and why some must stay."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Labels = Tensor
"""The channel number of each element of a tensor, 0 for none. float64 holding whole numbers,
broadcast along dimensions of size 1.
"""


class ChannelPartition:
    """Numbered channels, joined into classes that can only be removed as a whole (union-find)."""

    def __init__(self) -> None:
        self._parents = [0]
        self._reasons: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def add(self, count: int) -> Tensor:
        """Make new channels, each in its own class, and return their labels of shape (count,)."""
        first = len(self._parents)
        self._parents.extend(range(first, first + count))
        return torch.arange(first, first + count, dtype=torch.float64)

    def find(self, channel: int) -> int:
        """Return the representative of the channel's class."""
        parents = self._parents
        root = channel
        while parents[root] != root:
            root = parents[root]
        while parents[channel] != root:
            parents[channel], channel = root, parents[channel]
        return root

    def join(self, first: Labels, second: Labels) -> None:
        """Join the classes of the channels at the same position of both; 0 joins nothing."""
        one, other = first + 0 * second, second + 0 * first
        pairs = np.stack([_numbers(one), _numbers(other)], axis=1)
        pairs = pairs[(pairs[:, 0] != 0) & (pairs[:, 1] != 0) & (pairs[:, 0] != pairs[:, 1])]
        for a, b in np.unique(pairs, axis=0).tolist():
            low, high = sorted((self.find(a), self.find(b)))
            if low == high:
                continue
            self._parents[high] = low
            if high in self._reasons:
                self._reasons.setdefault(low, self._reasons.pop(high))

    def join_across(self, labels: Labels, dim: int) -> None:
        """Join all slices along a dimension, so that each of them loses the same channels."""
        self.join(labels, labels.narrow(dim, 0, 1))

    def fix(self, labels: Labels, reason: str) -> None:
        """Mark these channels, and all that are or will be in their classes, as not removable."""
        for channel in np.unique(_numbers(labels)).tolist():
            if channel:
                self._reasons.setdefault(self.find(channel), reason)

    def get_reason(self, channel: int) -> str | None:
        """Return the reason why a channel must stay; None if it can be removed."""
        return self._reasons.get(self.find(channel))


def _numbers(labels: Labels) -> NDArray[np.int64]:
    return labels.reshape(-1).numpy().astype(np.int64)
