"""Optimisers and learning-rate schedules; the rate is a pure function of the step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from models import SegmentationNetwork


@dataclass(frozen=True, kw_only=True, slots=True)
class OptimizerConfig:
    """Settings of the optimiser and its schedule.

    Attributes:
        name: Optimiser: sgd (without Nesterov), adam (weight decay as part of the gradient) or
            adamw.
        lr: Peak learning rate, greater than 0.
        weight_decay: Weight decay, at least 0; not applied to BatchNorm parameters and biases.
        momentum: Momentum of SGD, in 0..1.
        schedule: Learning-rate schedule. poly: lr (1 - step/num_steps)^poly_power after the
            warm-up. one_cycle: rises along a cosine from lr/25 during `warmup_fraction`, then falls
            along a cosine to lr/10 000.
        poly_power: Exponent of the poly schedule.
        min_lr: Smallest rate of the poly schedule.
        warmup_fraction: Fraction of the steps in which the rate rises, in 0..1.
        backbone_lr_factor: Learning rate of the pretrained backbone relative to the rest, greater
            than 0.
        max_grad_norm: Largest L2 norm of the gradients, which are scaled down to it; None: no
            limit.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = 0.01
    weight_decay: float = 5e-4
    momentum: float = 0.9
    schedule: Literal["poly", "one_cycle"] = "poly"
    poly_power: float = 0.9
    min_lr: float = 0.0
    warmup_fraction: float = 0.0
    backbone_lr_factor: float = 1.0
    max_grad_norm: float | None = 5.0

    def __post_init__(self) -> None:
        for field in ("lr", "backbone_lr_factor"):
            value = getattr(self, field)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{field} must be greater than 0, got {value}")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be at least 0, got {self.weight_decay}")
        for field in ("momentum", "warmup_fraction"):
            if not 0 <= getattr(self, field) < 1:
                raise ValueError(
                    f"{field} must lie in 0..1 (1 excluded), got {getattr(self, field)}"
                )
        if self.max_grad_norm is not None and self.max_grad_norm <= 0:
            raise ValueError(f"max_grad_norm must be greater than 0, got {self.max_grad_norm}")

    def learning_rate(self, step: int, num_steps: int) -> float:
        """Return the learning rate, without backbone factor, of update `step` (0-based).

        Source: poly: Chen et al., DeepLab, 2016; one-cycle: Smith and Topin, 2018.
        """
        warmup = round(self.warmup_fraction * num_steps)
        if self.schedule == "one_cycle":
            start, end = self.lr / 25, self.lr / 1e4
            if step < warmup:
                return _cosine(start, self.lr, step / warmup)
            return _cosine(self.lr, end, (step - warmup) / max(1, num_steps - 1 - warmup))
        decayed = max(self.min_lr, self.lr * (1 - step / num_steps) ** self.poly_power)
        return float(decayed * min(1.0, (step + 1) / (warmup + 1)))


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of an optimiser from `build_optimizer`, with the backbone's factor."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_factor"]


def _cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * min(fraction, 1.0))) / 2


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, beside: nn.Module | None = None
) -> torch.optim.Optimizer:
    """Build the optimiser; BatchNorm parameters and biases (ndim <= 1) have no weight decay.

    Each of its groups holds `lr_factor`, by which `set_learning_rate` multiplies the rate.

    Args:
        model: Network to train.
        config: Settings of the optimiser.
        beside: Module that is trained together with it in the same way, such as a distiller's
            projections.
    """
    backbone = model.get_backbone() if isinstance(model, SegmentationNetwork) else None
    pretrained = set() if backbone is None else set(backbone.parameters())
    groups = []
    trained = [*model.parameters(), *(beside.parameters() if beside is not None else ())]
    for in_backbone in (False, True):
        parameters = [p for p in trained if p.requires_grad and (p in pretrained) == in_backbone]
        factor = config.backbone_lr_factor if in_backbone else 1.0
        for decayed in (True, False):
            chosen = [p for p in parameters if (p.ndim > 1) == decayed]
            if chosen:
                weight_decay = config.weight_decay if decayed else 0.0
                groups.append({"params": chosen, "weight_decay": weight_decay, "lr_factor": factor})
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    if config.name == "adam":
        return torch.optim.Adam(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)
