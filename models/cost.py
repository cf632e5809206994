"""The cost of a network: parameters and multiply-accumulates, counted without running it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from models.network import copy_to_cpu


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The size of a network and its arithmetic for one image.

    Attributes:
        num_params: Number of parameters, trainable or not; buffers are not counted.
        macs: Multiply-accumulates of convolutions (transposed ones too), linear layers and matrix
            products, for a batch of 1 in eval mode. BatchNorm, activations, pooling, resizing and
            biases are counted only in the convention of fvcore. Papers call this number FLOPs.
    """

    num_params: int
    macs: int


def _count_batch_norm(images: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * 2 * math.prod(images)


def _count_resize(*_: Any, out_shape: tuple[int, ...], **__: Any) -> int:
    return 2 * 4 * math.prod(out_shape)


def _count_pooling(images: tuple[int, ...], *_: Any, **__: Any) -> int:
    return 2 * math.prod(images)


def _count_nothing(*_: Any, **__: Any) -> int:
    return 0


# Operations that fvcore counts besides MACs, times two: PyTorch's counter counts two FLOPs for a
# MAC.
_FVCORE: dict[Any, Callable[..., int]] = {
    torch.ops.aten.native_batch_norm: _count_batch_norm,
    torch.ops.aten._native_batch_norm_legit_no_training: _count_batch_norm,
    torch.ops.aten.upsample_bilinear2d: _count_resize,
    torch.ops.aten._adaptive_avg_pool2d: _count_pooling,
}


def count_cost(
    model: nn.Module,
    input_shape: tuple[int, int, int],
    convention: Literal["macs", "fvcore"] = "macs",
) -> Cost:
    """Count parameters and multiply-accumulates on the meta device, without computing anything.

    A network that cannot run there is run once on the CPU.

    Source: "fvcore": https://github.com/facebookresearch/fvcore, fvcore/nn/jit_handles.py, which
        mmengine follows and many papers report: two operations for each input of a BatchNorm, four
        for each output of a bilinear resizing, one for each input of an adaptive pooling.

    Args:
        model: Network, which is not changed. Auxiliary heads count as parameters, but do no work in
            eval mode.
        input_shape: (C, H, W) of one image.
        convention: "macs", or "fvcore" for that library's sum of MACs and other operations.

    Raises:
        ValueError: The shape is not three positive numbers, or the convention is unknown.
    """
    if convention not in ("macs", "fvcore"):
        raise ValueError(f"convention must be 'macs' or 'fvcore', got {convention!r}")
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"input_shape must be (C, H, W), all positive; got {input_shape!r}")
    num_params = sum(p.numel() for p in model.parameters())
    # The counter takes apart every operation that it does not know, which takes most of the time.
    others = _FVCORE if convention == "fvcore" else dict.fromkeys(_FVCORE, _count_nothing)
    try:
        # The meta device holds shapes only, so even a deep copy of a large network is small.
        flops = _count_flops(_copy_to_meta(model).eval(), input_shape, "meta", others)
    except Exception:  # code that reads values, or keeps a tensor elsewhere, needs real tensors
        flops = _count_flops(copy_to_cpu(model), input_shape, "cpu", others)
    return Cost(num_params=num_params, macs=flops // 2)


def _count_flops(
    model: nn.Module, input_shape: tuple[int, ...], device: str, others: Mapping[Any, Any]
) -> int:
    """Count in one run, in which tensors without a device are on that of the network."""
    counter = FlopCounterMode(display=False, custom_mapping=dict(others))
    # The counter knows the matrix products of attention, but not the fused attention of CPUs.
    with counter, torch.no_grad(), torch.device(device), sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(1, *input_shape))
    return counter.get_total_flops()


def _copy_to_meta(model: nn.Module) -> nn.Module:
    """Copy a network without its values: the memo replaces every tensor by a meta tensor."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta", dtype=torch.float32), requires_grad=False
        )
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)
