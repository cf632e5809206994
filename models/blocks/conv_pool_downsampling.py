"""The downsampling of ENet and its successors: a convolution in parallel with max-pooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ConvPoolDownsampling(nn.Module):
    """Concatenates a 3x3 convolution of stride 2 and max-pooling, then applies BatchNorm.

    Source: the initial block of ENet, https://arxiv.org/abs/1606.02147, figure 2a.

    Args:
        in_channels: Channels of the input; max-pooling passes all of them on.
        out_channels: Channels of the output, more than those of the input.
        activation: Activation after the BatchNorm.
        bias: Whether the convolution has a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, activation: nn.Module, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels, out_channels - in_channels, 3, stride=2, padding=1, bias=bias
        )
        self.pool = nn.MaxPool2d(2, ceil_mode=True)
        self.norm = nn.BatchNorm2d(out_channels)
        self.activation = activation

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / 2), ceil(W / 2))."""
        both = torch.cat((self.conv(features), self.pool(features)), dim=1)
        return self.activation(self.norm(both))  # type: ignore[no-any-return]
