"""The output of a network in train mode."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class WithAuxiliary(NamedTuple):
    """Logits and the outputs of the auxiliary heads; returned only in train mode.

    Attributes:
        logits: Logits, (N, num_classes, H, W) float, unnormalised.
        auxiliary: Logits of the auxiliary heads, each (N, num_classes, H, W) float, unnormalised.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
