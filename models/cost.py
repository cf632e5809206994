"""What a network costs: parameters and multiply-accumulates, counted without running it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The size of a network and the work for one image.

    Attributes:
        num_params: Parameters, trainable or not; buffers are not counted.
        macs: Multiply-accumulates of convolutions (transposed ones too), linear layers and matrix
            products, for a batch of 1 in eval mode. BatchNorm, activations, pooling, resizing and
            biases count as nothing. The papers call this FLOPs.
    """

    num_params: int
    macs: int


def count_cost(model: nn.Module, input_shape: tuple[int, int, int]) -> Cost:
    """Count parameters and multiply-accumulates on PyTorch's meta device: nothing is computed.

    Args:
        model: Left untouched; auxiliary heads count as parameters, but do no work in eval mode.
        input_shape: (C, H, W) of one image.

    Raises:
        ValueError: The shape is not three positive numbers.
    """
    if len(input_shape) != 3 or min(input_shape) < 1:
        raise ValueError(f"input_shape must be (C, H, W), all positive; got {input_shape!r}")
    num_params = sum(p.numel() for p in model.parameters())
    # The meta device holds shapes only, so even a deep copy of a large network is small.
    empty = _copy_to_meta(model).eval()
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        empty(torch.empty(1, *input_shape, device="meta"))
    return Cost(num_params=num_params, macs=counter.get_total_flops() // 2)


def _copy_to_meta(model: nn.Module) -> nn.Module:
    """Copy a network without its numbers: the memo hands out meta tensors for every tensor."""
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device="meta", dtype=torch.float32), requires_grad=False
        )
    for buffer in model.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device="meta")
    return copy.deepcopy(model, memo)
