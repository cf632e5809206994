"""Distillation losses per pixel, computed in log space."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def decoupled_kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    target: Tensor,
    temperature: float = 4.0,
    alpha: float = 1.0,
    beta: float = 8.0,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Decoupled knowledge distillation: alpha * TCKD + beta * NCKD, for every pixel.

    TCKD is the KL divergence of the two binary distributions (target class, all other classes);
    NCKD is that of the distributions over the other classes alone.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, equations 5-7; the first
        two terms of equation 4 of the dual-branch paper (Chen et al. 2026). The third,
        eta * CE, belongs to the distiller.

    Args:
        student_logits: (N, C, H, W) float, unnormalised.
        teacher_logits: (N, C, H, W) float, unnormalised; receives no gradient.
        target: (N, H, W) integer, classes 0..C-1 or `ignore_index`.
        temperature: T > 0, divides both logits.
        alpha: Weight of TCKD, at least 0.
        beta: Weight of NCKD, at least 0.
        ignore_index: Label of the pixels that do not count.
        class_weights: (C,) float, at least 0; each pixel counts by that of its label, as in
            `cross_entropy`. None: all equal.

    Returns:
        Scalar in nats: the mean over valid pixels, times T^2; 0 where no pixel is valid.

    Raises:
        ValueError: Shapes that do not fit, or a value out of range.
    """
    _check_logits(student_logits, teacher_logits, target, temperature)
    if alpha < 0 or beta < 0:
        raise ValueError(f"alpha and beta must be at least 0, got {alpha} and {beta}")

    valid = target != ignore_index
    index = torch.where(valid, target, 0).long().unsqueeze(1)
    student_target, student_rest, student_others = _split_log_probabilities(
        student_logits, index, temperature
    )
    with torch.no_grad():
        teacher_target, teacher_rest, teacher_others = _split_log_probabilities(
            teacher_logits, index, temperature
        )

    tckd = teacher_target.exp() * (teacher_target - student_target)
    tckd = tckd + teacher_rest.exp() * (teacher_rest - student_rest)
    nckd = (teacher_others.exp() * (teacher_others - student_others)).sum(dim=1)
    divergence = alpha * tckd + beta * nckd
    return _mean_over(divergence, target, ignore_index, class_weights) * temperature**2


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    target: Tensor | None = None,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Knowledge distillation: KL(teacher || student) of the softened distributions, per pixel.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2;
        the KL term of equation 3 of the dual-branch paper (Chen et al. 2026).

    Args:
        student_logits: (N, C, H, W) float, unnormalised.
        teacher_logits: (N, C, H, W) float, unnormalised; receives no gradient.
        temperature: T > 0, divides both logits.
        target: (N, H, W) integer, to leave out the pixels of `ignore_index`; None: all count.
        ignore_index: Label of the pixels that do not count.
        class_weights: (C,) float, at least 0; each pixel counts by that of its label, as in
            `cross_entropy`. None, or no target: all equal.

    Returns:
        Scalar in nats: the mean over valid pixels, times T^2; 0 where no pixel is valid.

    Raises:
        ValueError: Shapes that do not fit, or a value out of range.
    """
    _check_logits(student_logits, teacher_logits, target, temperature)
    student = F.log_softmax(student_logits.float() / temperature, dim=1)
    with torch.no_grad():
        teacher = F.log_softmax(teacher_logits.float() / temperature, dim=1)
    divergence = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    if target is None:
        return divergence.mean() * temperature**2
    return _mean_over(divergence, target, ignore_index, class_weights) * temperature**2


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean cross-entropy over valid pixels in nats; 0 (not NaN) where no pixel is valid.

    Args:
        logits: (N, C, H, W) float, unnormalised.
        target: (N, H, W) integer, classes 0..C-1 or `ignore_index`.
        ignore_index: Label of the pixels that do not count.
        class_weights: (C,) float, at least 0; the mean is weighted by them. None: all equal.

    Returns:
        Scalar.
    """
    labels = target.long()
    if class_weights is None:
        losses = F.cross_entropy(
            logits.float(), labels, ignore_index=ignore_index, reduction="none"
        )
        return _mean_over(losses, target, ignore_index)
    loss = F.cross_entropy(logits.float(), labels, class_weights, ignore_index=ignore_index)
    return loss if bool((target != ignore_index).any()) else logits.sum() * 0.0


def _split_log_probabilities(
    logits: Tensor, index: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities of the target class, of all others together, and among the others.

    The last has the target class at 0 in both networks, so that it adds nothing to a divergence
    (exp(0) * (0 - 0)); subtracting -inf from -inf would make NaN of it.

    Args:
        logits: (N, C, H, W).
        index: (N, 1, H, W) long, the target class.
        temperature: Divides the logits.

    Returns:
        (N, H, W), (N, H, W) and (N, C, H, W).
    """
    scaled = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    total = scaled.logsumexp(dim=1, keepdim=True)
    is_target = torch.zeros_like(scaled, dtype=torch.bool).scatter_(1, index, True)
    rest = scaled.masked_fill(is_target, -torch.inf).logsumexp(dim=1, keepdim=True)
    others = (scaled - rest).masked_fill(is_target, 0.0)
    at_target = scaled.gather(1, index) - total
    return at_target.squeeze(1), (rest - total).squeeze(1), others


def _mean_over(
    values: Tensor, target: Tensor, ignore_index: int, class_weights: Tensor | None = None
) -> Tensor:
    """Mean of (N, H, W) values over the valid pixels, each by the weight of its class."""
    weights = (target != ignore_index).float()
    if class_weights is not None:
        labels = torch.where(target != ignore_index, target, 0).long()
        weights = weights * class_weights[labels]
    total = weights.sum()
    weighed = torch.where(weights > 0, values, 0.0) * weights  # no value, no NaN
    return weighed.sum() / torch.where(total > 0, total, 1.0)


def _check_logits(
    student_logits: Tensor, teacher_logits: Tensor, target: Tensor | None, temperature: float
) -> None:
    if temperature <= 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")
    if student_logits.ndim != 4 or student_logits.shape[1] < 2:
        raise ValueError(
            "student_logits must be (N, C, H, W) with at least 2 classes, got "
            f"{tuple(student_logits.shape)}"
        )
    if student_logits.shape != teacher_logits.shape:
        raise ValueError(
            f"student_logits and teacher_logits must have one shape, got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    expected = (student_logits.shape[0], *student_logits.shape[2:])
    if target is not None and tuple(target.shape) != expected:
        raise ValueError(f"target must be {expected}, got {tuple(target.shape)}")
