"""Losses on logits in log space; those of distillation keep only their gradient in memory.

If several processes share a batch (`trainables.process.distributed`), each computes its share of
the loss of the whole batch: a mean divides by the count in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from trainables.process.distributed import count_processes, sum_over_processes

# Numbers that are processed at once: so few that they stay in the caches of the processor, so many
# that the calls cost little.
_CHUNK_NUMEL = {"cpu": 2**20}
_CHUNK_NUMEL_ELSEWHERE = 2**25

_Part = tuple[slice, ...]
# (part of the student's tensor, its slices) -> (sum of the loss there, its gradient)
_PartLoss = Callable[[Tensor, _Part], tuple[Tensor, Tensor]]


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
    """Return the decoupled knowledge distillation loss, alpha * TCKD + beta * NCKD per pixel.

    TCKD is the KL divergence of the two binary distributions (target class, all other classes);
    NCKD is that of the distributions over the other classes only.

    Source: Zhao et al., "Decoupled Knowledge Distillation", CVPR 2022, equations 5-7; the first
        two terms of equation 4 of the dual-branch paper (Chen et al. 2026). The third,
        eta * CE, belongs to the distiller.

    Args:
        student_logits: Logits of the student, (N, C, H, W) float, unnormalised.
        teacher_logits: Logits of the teacher, (N, C, H, W) float, unnormalised; gets no gradient.
        target: Labels, (N, H, W) integer, classes 0..C-1 or `ignore_index`.
        temperature: Temperature T > 0, which divides both logits.
        alpha: Weight of TCKD, at least 0.
        beta: Weight of NCKD, at least 0.
        ignore_index: Label of pixels that do not count.
        class_weights: Class weights, (C,) float, at least 0; a pixel has the weight of its label,
            as in `cross_entropy`. None: all equal.

    Returns:
        Scalar in nats: the mean over valid pixels, times T^2; 0 if no pixel is valid.

    Raises:
        ValueError: The shapes do not fit, or a value is out of range.
    """
    _check_logits(student_logits, teacher_logits, target, temperature)
    if alpha < 0 or beta < 0:
        raise ValueError(f"alpha and beta must be at least 0, got {alpha} and {beta}")
    labels = torch.where(target != ignore_index, target, 0).long().unsqueeze(1)
    weights = _pixel_weights(target, ignore_index, class_weights)

    def compute(student: Tensor, part: _Part) -> tuple[Tensor, Tensor]:
        pixels = (part[0], part[2], part[3])
        index = labels[part]
        own = _split(student / temperature, index)
        taught = _split(_widen(teacher_logits[part]) / temperature, index)
        target_error = own.log_odds.sigmoid() - taught.log_odds.sigmoid()
        value = alpha * _binary_divergence(taught.log_odds, own.log_odds)
        value = value + beta * _divergence_of_others(taught, own, index)
        # d TCKD / d z = target_error (1 at the target, -q elsewhere); d NCKD / d z = q - q_teacher.
        gradient = own.others.mul_((beta - alpha * target_error) / own.total)
        gradient.addcmul_(taught.others, beta / taught.total, value=-1.0)
        gradient.scatter_(1, index, alpha * target_error)
        weight = weights[pixels].to(student.dtype)
        return _weigh(value.squeeze(1), gradient, weight, temperature)

    return _Chunked.apply(student_logits, _chunks_of_pixels(student_logits), compute)  # type: ignore[no-any-return]


def kd_loss(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    target: Tensor | None = None,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the distillation loss: KL(teacher || student) of softened distributions per pixel.

    Source: Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, section 2;
        the KL term of equation 3 of the dual-branch paper (Chen et al. 2026).

    Args:
        student_logits: Logits of the student, (N, C, H, W) float, unnormalised.
        teacher_logits: Logits of the teacher, (N, C, H, W) float, unnormalised; gets no gradient.
        temperature: Temperature T > 0, which divides both logits.
        target: Labels, (N, H, W) integer, to leave out pixels of `ignore_index`; None: all pixels
            count.
        ignore_index: Label of pixels that do not count.
        class_weights: Class weights, (C,) float, at least 0; a pixel has the weight of its label,
            as in `cross_entropy`. None, or without target: all equal.

    Returns:
        Scalar in nats: the mean over valid pixels, times T^2; 0 if no pixel is valid.

    Raises:
        ValueError: The shapes do not fit, or a value is out of range.
    """
    _check_logits(student_logits, teacher_logits, target, temperature)
    if target is None:
        target, class_weights = student_logits.new_zeros(student_logits[:, 0].shape).long(), None
    weights = _pixel_weights(target, ignore_index, class_weights)

    def compute(student: Tensor, part: _Part) -> tuple[Tensor, Tensor]:
        own = F.log_softmax(student / temperature, dim=1)
        taught = F.log_softmax(_widen(teacher_logits[part]) / temperature, dim=1)
        shares = taught.exp()
        value = (shares * (taught - own)).sum(dim=1)
        weight = weights[part[0], part[2], part[3]].to(student.dtype)
        return _weigh(value, own.exp_().sub_(shares), weight, temperature)

    return _Chunked.apply(student_logits, _chunks_of_pixels(student_logits), compute)  # type: ignore[no-any-return]


def channel_kd_loss(
    student_maps: Tensor,
    teacher_maps: Tensor,
    temperature: float = 4.0,
    valid: Tensor | None = None,
) -> Tensor:
    """Return the channel-wise distillation loss: KL(teacher || student) over positions.

    The softmax is taken over the positions of each channel. The loss does not change when a number
    is added to a whole channel of either network.

    Source: Shu et al., "Channel-wise Knowledge Distillation for Dense Prediction", ICCV 2021,
        https://arxiv.org/abs/2011.13256, equations 4 and 5.

    Args:
        student_maps: Logits or features of the student, (N, C, H, W) float.
        teacher_maps: Logits or features of the teacher, (N, C, H, W) float; gets no gradient.
        temperature: Temperature T > 0, which divides both.
        valid: Positions that count, (N, H, W) bool; None: all.

    Returns:
        Scalar in nats: the mean over the channels of the images that have a valid position, times
        T^2; 0 if there is none.

    Raises:
        ValueError: The shapes do not fit, or the temperature is out of range.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be greater than 0, got {temperature}")
    if student_maps.shape != teacher_maps.shape or student_maps.ndim != 4:
        raise ValueError(
            "student_maps and teacher_maps must be (N, C, H, W) of the same shape, got "
            f"{tuple(student_maps.shape)} and {tuple(teacher_maps.shape)}"
        )
    num_images, channels = student_maps.shape[:2]
    if valid is None:
        valid = student_maps.new_ones(student_maps[:, 0].shape).bool()
    counted = valid.flatten(1).any(dim=1)
    weights = counted.double() / (sum_over_processes(counted.sum()).clamp(min=1) * channels)

    def compute(student: Tensor, part: _Part) -> tuple[Tensor, Tensor]:
        hidden = ~valid[part[0]].flatten(1).unsqueeze(1)
        own = (student.flatten(2) / temperature).masked_fill(hidden, -torch.inf)
        taught = (_widen(teacher_maps[part]).flatten(2) / temperature).masked_fill(
            hidden, -torch.inf
        )
        own, taught = F.log_softmax(own, dim=2), F.log_softmax(taught, dim=2)
        shares = taught.exp()
        gap = (taught - own).masked_fill(hidden, 0.0)
        # An image without any valid position has NaN as its distribution, and weight 0.
        value = (shares.masked_fill(hidden, 0.0) * gap).sum(dim=2)
        gradient = (own.exp() - shares).masked_fill(hidden, 0.0).view(student.shape)
        weight = weights[part[0]].to(student.dtype).view(-1, 1, 1)
        return _weigh(value.unsqueeze(1), gradient, weight, temperature)

    per_map = student_maps[0, 0].numel()
    step = max(1, _chunk_numel(student_maps) // per_map)
    parts = [
        (slice(image, image + 1), slice(first, first + step), slice(None), slice(None))
        for image in range(num_images)
        for first in range(0, channels, step)
    ]
    return _Chunked.apply(student_maps, parts, compute)  # type: ignore[no-any-return]


def cross_entropy(
    logits: Tensor,
    target: Tensor,
    ignore_index: int = 255,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy over valid pixels in nats; 0 (not NaN) if none is valid.

    Args:
        logits: Logits, (N, C, H, W) float, unnormalised.
        target: Labels, (N, H, W) integer, classes 0..C-1 or `ignore_index`.
        ignore_index: Label of pixels that do not count.
        class_weights: Class weights of the mean, (C,) float, at least 0. None: all equal.

    Returns:
        Scalar.
    """
    labels = target.long()
    wide = logits if logits.dtype == torch.float64 else logits.float()
    if class_weights is None:
        losses = F.cross_entropy(wide, labels, ignore_index=ignore_index, reduction="none")
        return _mean_over(losses, target, ignore_index)
    weights = class_weights.to(wide.dtype)
    loss = F.cross_entropy(wide, labels, weights, ignore_index=ignore_index)
    loss = loss if bool((target != ignore_index).any()) else wide.sum() * 0.0
    if count_processes() == 1:
        return loss
    own = _weigh_pixels(target, ignore_index, weights).sum()
    total = sum_over_processes(own)
    return loss * (own / torch.where(total > 0, total, 1.0))


class _Chunked(torch.autograd.Function):
    """A sum over the parts of a tensor whose gradient is known together with its value.

    Autograd would keep several intermediates of the tensor's size until the backward pass; here
    only the gradient itself is kept.
    """

    @staticmethod
    def forward(ctx: Any, student: Tensor, parts: list[_Part], compute: _PartLoss) -> Tensor:
        total = torch.zeros((), dtype=torch.float64, device=student.device)
        is_asked = ctx.needs_input_grad[0]
        gradient = torch.empty_like(student) if is_asked else None
        for part in parts:
            value, slope = compute(_widen(student[part]), part)
            total += value.double()
            if gradient is not None:
                gradient[part] = slope
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return total.to(torch.float64 if student.dtype == torch.float64 else torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream.to(gradient.dtype), None, None


class _Split(NamedTuple):
    """The terms of decoupled distillation.

    Attributes:
        scaled: Logits divided by the temperature, (N, C, H, W); -infinity at the target.
        others: Exponentials of the other classes' logits, less the largest of them, (N, C, H, W);
            0 at the target.
        total: Sum of `others` over the classes, (N, 1, H, W).
        log_rest: Log of the summed exponentials of those classes, (N, 1, H, W).
        log_odds: Logit of the target class against all others together, (N, 1, H, W).
    """

    scaled: Tensor
    others: Tensor
    total: Tensor
    log_rest: Tensor
    log_odds: Tensor


def _split(scaled: Tensor, index: Tensor) -> _Split:
    """Split the (N, C, H, W) logits of both parts; `scaled` is changed in place."""
    at_target = scaled.gather(1, index)
    highest = scaled.scatter_(1, index, -torch.inf).amax(dim=1, keepdim=True)
    others = (scaled - highest).exp_()
    total = others.sum(dim=1, keepdim=True)
    log_rest = highest + total.log()
    return _Split(scaled, others, total, log_rest, at_target - log_rest)


def _binary_divergence(taught: Tensor, own: Tensor) -> Tensor:
    """Return the KL divergence of two binary distributions given by their log-odds."""
    gap = F.logsigmoid(taught) - F.logsigmoid(own)
    return gap.addcmul_((-taught).sigmoid_(), own - taught)  # log s(-x) = log s(x) - x


def _divergence_of_others(taught: _Split, own: _Split, index: Tensor) -> Tensor:
    """Return the KL divergence among the classes other than the target, (N, 1, H, W)."""
    gaps = taught.scaled - own.scaled
    gaps.scatter_(1, index, 0.0)  # infinity less itself
    mean = gaps.mul_(taught.others).sum(dim=1, keepdim=True) / taught.total
    return mean - (taught.log_rest - own.log_rest)


def _weigh(
    value: Tensor, gradient: Tensor, weight: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Return the weighted sum of (N, ...) values and its gradient; weight 0 hides NaN."""
    counts = weight > 0
    total = torch.where(counts, value * weight, 0.0).sum() * temperature**2
    slope = gradient.mul_((weight * temperature).unsqueeze(1))
    return total, slope.masked_fill_(~counts.unsqueeze(1), 0.0)


def _widen(values: Tensor) -> Tensor:
    """Convert to at least float32, in which sums are computed."""
    return values.detach() if values.dtype == torch.float64 else values.detach().float()


def _chunk_numel(values: Tensor) -> int:
    return _CHUNK_NUMEL.get(values.device.type, _CHUNK_NUMEL_ELSEWHERE)


def _chunks_of_pixels(logits: Tensor) -> list[_Part]:
    """Return bands of rows of single images, with all classes of a pixel together."""
    num_images, channels, height, width = logits.shape
    rows = max(1, _chunk_numel(logits) // max(1, channels * width))

    def generate() -> Iterator[_Part]:
        for image in range(num_images):
            for top in range(0, height, rows):
                yield slice(image, image + 1), slice(None), slice(top, top + rows), slice(None)

    return list(generate())


def _pixel_weights(target: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
    """Return (N, H, W) float64 weights that sum to 1 over the valid pixels, 0 elsewhere."""
    weights = _weigh_pixels(target, ignore_index, class_weights)
    total = sum_over_processes(weights.sum())
    return weights / torch.where(total > 0, total, 1.0)


def _weigh_pixels(target: Tensor, ignore_index: int, class_weights: Tensor | None) -> Tensor:
    """Return (N, H, W) float64: 1 for a valid pixel, or its class's weight; 0 elsewhere."""
    valid = target != ignore_index
    weights = valid.double()
    if class_weights is not None:
        weights *= class_weights[torch.where(valid, target, 0).long()]
    return weights


def _mean_over(values: Tensor, target: Tensor, ignore_index: int) -> Tensor:
    """Return the mean of (N, H, W) values over the valid pixels; 0 if there is none."""
    valid = target != ignore_index
    return torch.where(valid, values, 0.0).sum() / sum_over_processes(valid.sum()).clamp(min=1)


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
            f"student_logits and teacher_logits must have the same shape, got "
            f"{tuple(student_logits.shape)} and {tuple(teacher_logits.shape)}"
        )
    expected = (student_logits.shape[0], *student_logits.shape[2:])
    if target is not None and tuple(target.shape) != expected:
        raise ValueError(f"target must be {expected}, got {tuple(target.shape)}")
