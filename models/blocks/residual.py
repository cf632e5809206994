"""Residual blocks whose last ReLU can be left to the caller, for networks that fuse before it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.layers import ConvBN, ConvBNReLU


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut.

    Source: He et al., https://arxiv.org/abs/1512.03385, figure 5, left.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution and of the shortcut.
        activate: Whether a ReLU follows the sum.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBNReLU(in_channels, out_channels, 3, stride=stride),
            ConvBN(out_channels, out_channels, 3),
        )
        self.shortcut = _make_shortcut(in_channels, out_channels, stride)
        self.activate = activate

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        summed: Tensor = self.layers(features) + self.shortcut(features)
        return torch.relu(summed) if self.activate else summed


class Bottleneck(nn.Module):
    """1x1, 3x3 and a 1x1 that doubles the channels, with a shortcut; no ReLU after the sum.

    Source: Pan et al., "DDRNet", https://arxiv.org/abs/2101.06085, figure 3.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the inner convolutions; the output has twice as many.
        stride: Stride of the 3x3 convolution and of the shortcut.
    """

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            ConvBNReLU(in_channels, channels, 1),
            ConvBNReLU(channels, channels, 3, stride=stride),
            ConvBN(channels, 2 * channels, 1),
        )
        self.shortcut = _make_shortcut(in_channels, 2 * channels, stride)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 2 x channels, H / stride, W / stride)."""
        summed: Tensor = self.layers(features) + self.shortcut(features)
        return summed


def make_stage(
    in_channels: int, out_channels: int, *, num_blocks: int, stride: int = 1
) -> nn.Sequential:
    """Chain basic blocks, the first one strided, the last one without its ReLU.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        num_blocks: Number of blocks, at least 1.
        stride: Stride of the first block.
    """
    blocks = nn.Sequential()
    for index in range(num_blocks):
        blocks.append(
            BasicBlock(
                in_channels if index == 0 else out_channels,
                out_channels,
                stride=stride if index == 0 else 1,
                activate=index < num_blocks - 1,
            )
        )
    return blocks


def _make_shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return ConvBN(in_channels, out_channels, 1, stride=stride)
