"""The stage sparse: training that drives the BatchNorm scales of unimportant channels to zero."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from models.checkpoint import load_checkpoint
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.ranges import setting
from trainables.stages.learning import Learning, make_learning
from trainables.stages.stage import NetworkStage, StageInputs


@dataclass(frozen=True, kw_only=True, slots=True)
class SparseSettings:
    """Settings of the sparse training.

    Attributes:
        sparsity_lambda: Factor λ of the L1 norm of the BatchNorm scales, at least 0. With a few
            choices, pipelines share their sparse networks. LOW..HIGH searches a continuous
            logarithmic scale, on which pipelines hardly share any.
    """

    sparsity_lambda: float = setting(1e-5, (1e-5, 1e-4, 1e-3), symbol="λ")

    def __post_init__(self) -> None:
        if not (self.sparsity_lambda >= 0 and math.isfinite(self.sparsity_lambda)):
            raise ValueError(f"sparsity_lambda must be at least 0, got {self.sparsity_lambda}")


class SparseStage(NetworkStage):
    """Continues training from the dense weights with an L1 penalty on the BatchNorm scales.

    Source: equation 2 of the dual-branch paper (Chen et al. 2026); Liu et al., "Network slimming",
        ICCV 2017, https://arxiv.org/abs/1708.06519.

    Args:
        network: Stage of the dense network.
        sparsity_lambda: Factor of the L1 norm, at least 0.
        learning: Data, schedule and seed.
    """

    name = "sparse"
    Settings: ClassVar[type[Any]] = SparseSettings
    follows = ("dense",)
    trains = True
    schedule = "sparse"
    evaluates = True

    def __init__(self, network: NetworkStage, sparsity_lambda: float, learning: Learning) -> None:
        self.origin = network
        self.parents = {"network": network}
        self.sparsity_lambda = sparsity_lambda
        self.learning = learning

    @classmethod
    def build(cls, settings: SparseSettings, inputs: StageInputs) -> SparseStage:
        """Build the sparse training of one pipeline."""
        learning = make_learning(inputs.config, inputs.config.sparse, inputs.seed)
        return cls(inputs.get_network(), settings.sparsity_lambda, learning)

    def content(self) -> dict[str, Any]:
        """Return the content of lambda and learning."""
        return {"sparsity_lambda": self.sparsity_lambda, **self.learning.content()}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Train, evaluate and save; the result includes the median scale, None without scales."""
        model = load_checkpoint(parents["network"].checkpoint)
        result = self.learning.run(
            model,
            folder,
            context,
            name=self.name,
            metadata={"sparsity_lambda": self.sparsity_lambda},
            adjust_gradients=lambda network: add_l1_subgradient(network, self.sparsity_lambda),
        )
        scales = [scale.detach().abs().cpu() for scale in batchnorm_scales(model)]
        if scales:
            return {**result, "median_bn_scale": float(torch.cat(scales).median())}
        warning = "the network has no BatchNorm2d with scales, so sparsity_lambda has no effect"
        return {**result, "median_bn_scale": None, "warnings": [warning]}

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return no metrics."""
        return {}


def batchnorm_scales(model: nn.Module) -> list[nn.Parameter]:
    """Return the scales gamma of all BatchNorms, each (channels,)."""
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
