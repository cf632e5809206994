"""BatchNorm and dropout over a whole batch of which this process computes a part.

torch's own SyncBatchNorm runs only on CUDA, and it would replace the BatchNorm2d layers that
pruning and checkpoints expect. Here the network does not change. Instead, the functions that its
layers call, such as `torch.nn.functional.batch_norm`, are replaced during a training step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from trainables.process.distributed import count_processes, get_rank, sum_over_processes

_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d)


def as_whole_batch(part: range, batch_size: int) -> AbstractContextManager[Any]:
    """Let networks in the block treat their images as a part of a whole batch.

    BatchNorm uses the statistics of the whole batch. Dropout and stochastic depth draw the random
    numbers of the whole batch, so each image loses the same activations as in one process. For
    this, all processes must have the same random state. If a network draws random numbers in any
    other way, each process draws its own.

    Args:
        part: Places of this process's images in the batch, from `take_part`.
        batch_size: Number of images in the whole batch.
    """
    return nullcontext() if count_processes() == 1 else _WholeBatch(part, batch_size)


class _WholeBatch(TorchFunctionMode):
    def __init__(self, part: range, batch_size: int) -> None:
        super().__init__()
        self._part, self._batch_size = part, batch_size

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func in _DROPOUTS:
            return self._drop(func, *args, **kwargs)
        # Stochastic depth of timm and torchvision.
        if func is Tensor.bernoulli_ and args[0].ndim and len(args[0]) % len(self._part) == 0:
            whole = self._draw_whole(args[0], lambda ones: ones.bernoulli_(*args[1:], **kwargs))
            return args[0].copy_(whole)
        return func(*args, **kwargs)

    def _drop(
        self,
        func: Callable[..., Tensor],
        input: Tensor,  # noqa: A002 - torch's name
        p: float = 0.5,
        training: bool = True,
        inplace: bool = False,
    ) -> Tensor:
        if not training or p == 0:
            return func(input, p, training, inplace)
        mask = self._draw_whole(input, lambda ones: func(ones, p, training=True))
        return input.mul_(mask) if inplace else input * mask

    def _draw_whole(self, like: Tensor, draw: Callable[[Tensor], Tensor]) -> Tensor:
        """Draw for the whole batch in the layout of `like` and return this process's part."""
        times = len(like) // len(self._part)  # some layers fold windows of images into the batch
        shape = (times * self._batch_size, *like.shape[1:])
        ones = torch.ones(shape, dtype=like.dtype, device=like.device)
        if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
            ones = ones.contiguous(memory_format=torch.channels_last)
        return draw(ones)[times * self._part.start : times * self._part.stop]


def _batch_norm(
    input: Tensor,  # noqa: A002 - torch's name
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Do the same as `torch.nn.functional.batch_norm`, in training over the whole batch."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    mean, var, count = _measure_whole(input)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_((var * (count / (count - 1))).to(running_var.dtype), momentum)
    weight = torch.ones_like(mean) if weight is None else weight
    bias = torch.zeros_like(mean) if bias is None else bias
    normalised: Tensor = _Normalise.apply(input, weight, bias, mean, var, count, eps)
    return normalised


@torch.no_grad()
def _measure_whole(values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Compute mean and biased variance of each channel, (C,), and the number of values, ().

    Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983, which
        combines variances without the cancellation of E[x^2] - E[x]^2.
    """
    wide = values if values.dtype == torch.float64 else values.float()
    own_var, own_mean = torch.var_mean(wide, dim=_but_channels(values), correction=0)
    own_count = torch.full_like(own_mean[:1], values.numel() / len(own_mean), dtype=torch.float64)
    own = torch.cat([own_mean.double(), own_var.double(), own_count])
    rows = own.new_zeros(count_processes(), len(own))
    rows[get_rank()] = own
    rows = sum_over_processes(rows)
    means, variances, counts = torch.split(rows, [len(own_mean), len(own_mean), 1], 1)
    count = counts.sum()
    mean = (counts * means).sum(dim=0) / count
    var = (counts * (variances + (means - mean).square())).sum(dim=0) / count
    return mean.to(wide.dtype), var.to(wide.dtype), count.to(wide.dtype)


class _Normalise(torch.autograd.Function):
    """Normalisation by the statistics of the whole batch, on which the gradient depends too."""

    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        weight: Tensor,
        bias: Tensor,
        mean: Tensor,
        var: Tensor,
        count: Tensor,
        eps: float,
    ) -> Tensor:
        ctx.save_for_backward(values, weight, mean, var, count)
        ctx.eps = eps
        return F.batch_norm(values, mean, var, weight, bias, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        values, weight, mean, var, count = ctx.saved_tensors
        # The gradient as if the statistics were constant, then the part that flows through them.
        gradient, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            upstream, values, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        through_var, through_mean = sum_over_processes(torch.stack([for_weight, for_bias]))
        scale = (var + ctx.eps).rsqrt()
        slope = weight * scale.square() * through_var / count
        offset = weight * scale * through_mean / count - slope * mean
        shape = (-1, *(1,) * (values.ndim - 2))
        gradient -= slope.view(shape) * values + offset.view(shape)
        return gradient, for_weight, for_bias, None, None, None, None


def _but_channels(values: Tensor) -> list[int]:
    return [dim for dim in range(values.ndim) if dim != 1]
