"""Training that drives BatchNorm scales to zero, so that pruning knows what to take."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models.checkpoint import load_checkpoint
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.stages.learning import Learning
from trainables.stages.stage import Stage


class SparseStage(Stage):
    """Goes on from the dense weights with L1 on the BatchNorm scales.

    Source: equation 2 of the dual-branch paper (Chen et al. 2026); Liu et al., "Network slimming",
        ICCV 2017, https://arxiv.org/abs/1708.06519.

    Args:
        parent: The dense network.
        sparsity_lambda: Factor of the L1 norm, at least 0.
        learning: Data, schedule, seed.
    """

    name = "sparse"

    def __init__(self, parent: Stage, sparsity_lambda: float, learning: Learning) -> None:
        self.parents = {"dense": parent}
        self.sparsity_lambda = sparsity_lambda
        self.learning = learning

    def content(self) -> dict[str, Any]:
        """Lambda and learning."""
        return {"sparsity_lambda": self.sparsity_lambda, **self.learning.content()}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Train, evaluate, save; also report how small the scales have become."""
        model = load_checkpoint(parents["dense"].checkpoint)
        result = self.learning.run(
            model,
            folder,
            context,
            name=self.name,
            metadata={"sparsity_lambda": self.sparsity_lambda},
            adjust_gradients=lambda network: add_l1_subgradient(network, self.sparsity_lambda),
        )
        scales = torch.cat([scale.detach().abs().cpu() for scale in batchnorm_scales(model)])
        result["median_bn_scale"] = float(scales.median())
        return result


def batchnorm_scales(model: nn.Module) -> list[nn.Parameter]:
    """The scales gamma of all BatchNorms, each (channels,)."""
    return [
        module.weight
        for module in model.modules()
        if isinstance(module, nn.BatchNorm2d) and module.affine
    ]


def add_l1_subgradient(model: nn.Module, sparsity_lambda: float) -> None:
    """Add lambda * sign(gamma), the subgradient of lambda * |gamma|, to every scale's gradient.

    Args:
        model: Network after its backward pass.
        sparsity_lambda: Lambda of equation 2.
    """
    for scale in batchnorm_scales(model):
        if scale.grad is not None:
            scale.grad.add_(scale.detach().sign(), alpha=sparsity_lambda)
