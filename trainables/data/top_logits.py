"""A map of logits in fewer numbers: the largest of every place, and what all others weigh."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def num_channels(num_classes: int, top_k: int | None) -> int:
    """Numbers that are kept of a place; None: the logits of all classes."""
    return num_classes if top_k is None else 2 * top_k + 1


def check_top_k(top_k: int | None, num_classes: int) -> None:
    """Refuse to keep more than there is to leave out.

    Raises:
        ValueError: Packing would take as much room as all logits, or more.
    """
    if top_k is not None and num_channels(num_classes, top_k) >= num_classes:
        raise ValueError(
            f"top_k keeps 2 top_k + 1 numbers instead of {num_classes} logits, so it must be at "
            f"most {(num_classes - 2) // 2} for this data set; got {top_k}"
        )


def pack_top(logits: Tensor, top_k: int) -> Tensor:
    """Keep the largest logits and the probability of all others together.

    Source: the marginal smoothing with top-K of Shen & Xing, "A Fast Knowledge Distillation
        Framework for Visual Recognition", https://arxiv.org/abs/2112.01528, for logits.

    Args:
        logits: (C, h, w) float.
        top_k: Of each place, within 1..C - 1.

    Returns:
        (2 top_k + 1, h, w) of the same dtype: the largest logits in descending order, their
        classes, and the logit that every other class would need for them to keep their share of
        the softmax.
    """
    largest, classes = logits.topk(top_k, dim=0)
    others = logits.scatter(0, classes, -torch.inf).logsumexp(dim=0, keepdim=True)
    evenly = others - math.log(logits.shape[0] - top_k)
    return torch.cat([largest, classes.to(logits.dtype), evenly])


def unpack_top(packed: Tensor, num_classes: int) -> Tensor:
    """Give every class a logit again: softmax of the largest ones is what it was.

    Args:
        packed: (2 top_k + 1, h, w), see `pack_top`.
        num_classes: C.

    Returns:
        (C, h, w) of the same dtype.
    """
    top_k = packed.shape[0] // 2
    largest, classes, evenly = packed[:top_k], packed[top_k:-1], packed[-1:]
    return evenly.repeat(num_classes, 1, 1).scatter_(0, classes.long(), largest)
