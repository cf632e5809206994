"""Weights so near to zero that a CPU computes with them slowly."""

from __future__ import annotations

import torch
from torch import nn

SMALLEST = 1e-30
"""Smallest magnitude that is kept, far above the subnormal numbers of float32 (below 1.2e-38)."""


def flush_tiny_weights(module: nn.Module) -> int:
    """Set to zero, in place, the parameters and BatchNorm statistics whose magnitude is tiny.

    Weight decay shrinks the weights of channels that a network no longer uses to subnormal numbers,
    with which many CPUs compute many times more slowly, and products of small weights become
    subnormal too. The output stays the same within rounding. In the ESPNet that its authors
    published, 3 % of the weights are subnormal, and they double the latency on a Xeon
    (`docs/engines.md`).

    Tensors of other dtypes and other buffers stay as they are: the limit is that of float32 and
    bfloat16, and a constant may be tiny for a reason.

    Source: IEEE 754-2008, section 2.1.51 (subnormal number).

    Args:
        module: Network or layer.

    Returns:
        How many numbers were set to zero.
    """
    statistics = [
        buffer for name, buffer in module.named_buffers()
        if name.endswith(("running_mean", "running_var"))
    ]  # fmt: skip
    count = 0
    for tensor in (*module.parameters(), *statistics):
        if tensor.dtype not in (torch.float32, torch.bfloat16) or tensor.is_meta:
            continue
        is_tiny = (tensor != 0) & (tensor.abs() < SMALLEST)
        if number := int(is_tiny.sum()):
            # Copies made in inference mode can be changed in inference mode only.
            with torch.inference_mode(tensor.is_inference()), torch.no_grad():
                tensor.masked_fill_(is_tiny, 0)
            count += number
    return count
