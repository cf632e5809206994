"""Importance scores of the output channels of a layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Importance:
    """A way to rank channels.

    Attributes:
        score: Function that maps a layer to the (C,) scores of its output channels, higher is more
            important, or to None if this kind of layer has no scores. None instead of a function:
            the scores are measured by running the network and passed to `models.pruning.prune`.
        is_comparable: Whether scores of different layers can be compared, which "global" pruning
            needs.
        is_additive: Whether the scores of channels that are removed together are added; else they
            are averaged.
    """

    score: Callable[[nn.Module], Tensor | None] | None
    is_comparable: bool
    is_additive: bool = False


@torch.no_grad()
def score_by_batchnorm(layer: nn.Module) -> Tensor | None:
    """Score by |gamma| of a BatchNorm.

    Source: Liu et al., "Network slimming", https://arxiv.org/abs/1708.06519, section 3.
    """
    if not isinstance(layer, nn.BatchNorm2d) or layer.weight is None:
        return None
    return layer.weight.detach().abs()


@torch.no_grad()
def score_by_norm(layer: nn.Module) -> Tensor | None:
    """Score by the L2 norm of all weights that compute a channel.

    Source: Li et al., "Pruning filters for efficient ConvNets", https://arxiv.org/abs/1608.08710,
        section 3.1.
    Differs: L2 instead of L1, averaged over the layers of a group.
    """
    weight = getattr(layer, "weight", None)
    if not isinstance(weight, Tensor):
        return None
    weight = weight.detach()
    if isinstance(layer, nn.ConvTranspose2d):
        inputs, outputs = len(weight) // layer.groups, weight.shape[1]
        per_group = weight.reshape(layer.groups, inputs, outputs, *weight.shape[2:])
        weight = per_group.transpose(1, 2).flatten(0, 1)
    squares: Tensor = weight.double().square().reshape(len(weight), -1).sum(dim=1)
    return squares.sqrt()


IMPORTANCES: dict[str, Importance] = {
    "bn_scale": Importance(score=score_by_batchnorm, is_comparable=True),
    "group_l2": Importance(score=score_by_norm, is_comparable=False),
    "taylor": Importance(score=None, is_comparable=True, is_additive=True),
}
"""Importances by name. If the chosen one has no scores for a group's channels, "group_l2" ranks
them within that group.
"""
