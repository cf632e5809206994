"""What a network returns while it trains."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class WithAuxiliary(NamedTuple):
    """Logits and the outputs of the auxiliary heads; only ever returned in train mode.

    Attributes:
        logits: (N, num_classes, H, W) float, unnormalised.
        auxiliary: each (N, num_classes, H, W) float, unnormalised, for training only.
    """

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
