"""A compressed map of logits: the top_k logits per cell and the total mass of the rest."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def num_channels(num_classes: int, top_k: int | None) -> int:
    """Return the number of values stored per cell; for top_k None, one per class."""
    return num_classes if top_k is None else 2 * top_k + 1


def check_top_k(top_k: int | None, num_classes: int) -> None:
    """Check that packing saves space.

    Raises:
        ValueError: Packing would take at least as much space as all logits.
    """
    if top_k is not None and num_channels(num_classes, top_k) >= num_classes:
        raise ValueError(
            f"top_k stores 2 top_k + 1 numbers instead of {num_classes} logits, so it must be at "
            f"most {(num_classes - 2) // 2} for this data set; got {top_k}"
        )


def pack_top(logits: Tensor, top_k: int) -> Tensor:
    """Store the top_k logits per cell and the total probability of the rest.

    Source: the marginal smoothing with top-K of Shen & Xing, "A Fast Knowledge Distillation
        Framework for Visual Recognition", https://arxiv.org/abs/2112.01528, for logits.

    Args:
        logits: Map of logits, (C, h, w) float.
        top_k: Number of logits to store per cell, in 1..C - 1.

    Returns:
        (2 top_k + 1, h, w) of the same dtype: the largest logits in descending order, their
        classes, and the logit that each other class would need so that together they keep their
        total probability.
    """
    largest, classes = logits.topk(top_k, dim=0)
    others = logits.scatter(0, classes, -torch.inf).logsumexp(dim=0, keepdim=True)
    evenly = others - math.log(logits.shape[0] - top_k)
    return torch.cat([largest, classes.to(logits.dtype), evenly])


def unpack_top(packed: Tensor, num_classes: int) -> Tensor:
    """Restore a logit for every class; the top_k classes keep their softmax probabilities.

    Args:
        packed: Packed map, (2 top_k + 1, h, w), see `pack_top`.
        num_classes: Number of classes, C.

    Returns:
        (C, h, w) of the same dtype.
    """
    top_k = packed.shape[0] // 2
    largest, classes, evenly = packed[:top_k], packed[top_k:-1], packed[-1:]
    return evenly.repeat(num_classes, 1, 1).scatter_(0, classes.long(), largest)
