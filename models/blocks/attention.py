"""Attention layers: they reweight a feature map by statistics of the map itself."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks.channel_layers import ChannelLayer, MixingLayer
from models.blocks.layers import ConvBN, ConvBNReLU


class EfficientChannelAttention(ChannelLayer):
    """Efficient channel attention: a channel's weight depends on the means of its neighbours.

    After pruning, a removed channel still takes its position in the row of means, with the value
    zero that a masked channel would have there. The other channels therefore keep the neighbours
    that they were trained with.

    Source: Wang et al., "ECA-Net", https://arxiv.org/abs/1910.03151, equations 5 and 6.

    Args:
        channels: Channels of the input and of the output.
        kernel_size: Number of neighbouring channels, the channel itself included, that decide its
            weight; odd.
    """

    positions: Tensor

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__(channels, channels)
        self.num_positions = channels
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.register_buffer("positions", torch.arange(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        means = features.mean(dim=(2, 3))
        if self.in_channels == self.num_positions:
            weights = self.conv(means[:, None])[:, 0]
        else:
            row = means.new_zeros(means.shape[0], self.num_positions)
            row = row.index_copy(1, self.positions, means)
            weights = self.conv(row[:, None])[:, 0].index_select(1, self.positions)
        weighted: Tensor = features * weights.sigmoid()[:, :, None, None]
        return weighted

    def get_sources(self) -> list[int]:
        """See `ChannelLayer.get_sources`."""
        return list(range(self.in_channels))

    def keep(self, inputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep`."""
        device = self.positions.device
        self.positions = self.positions.index_select(0, torch.tensor(inputs, device=device))
        self.in_channels = self.out_channels = len(inputs)


class SpatialAttention(ChannelLayer):
    """Reweights every position by the mean and the maximum over its channels.

    After pruning, the mean still divides by the original number of channels and the maximum is at
    least zero, because a masked channel would be zero.

    Source: Woo et al., "CBAM", https://arxiv.org/abs/1807.06521, equation 5.

    Args:
        channels: Channels of the input and of the output.
        kernel_size: Kernel size of the convolution over mean and maximum; odd.
    """

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__(channels, channels)
        self.num_positions = channels
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        mean = features.sum(dim=1, keepdim=True) / self.num_positions
        maximum = features.amax(dim=1, keepdim=True)
        if self.in_channels < self.num_positions:
            maximum = maximum.clamp_min(0)
        weighted: Tensor = features * self.conv(torch.cat((mean, maximum), dim=1)).sigmoid()
        return weighted

    def get_sources(self) -> list[int]:
        """See `ChannelLayer.get_sources`."""
        return list(range(self.in_channels))

    def keep(self, inputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep`."""
        self.in_channels = self.out_channels = len(inputs)


class PlaceWeights(MixingLayer):
    """Computes one fusion weight per position of two maps, from their means and maxima.

    The input is the concatenation of both maps; pruning removes the same channels from both. After
    pruning, the means still divide by the original number of channels and the maxima are at least
    zero, as in `SpatialAttention`.

    Source: Peng et al., "PP-LiteSeg", https://arxiv.org/abs/2204.02681, equation 3.

    Args:
        channels: Channels of each map and of the output, whose channels are all equal.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(2 * channels, channels)
        self.num_positions = channels
        self.mix = nn.Sequential(ConvBNReLU(4, 2, 3), ConvBN(2, 1, 3))

    def forward(self, both: Tensor) -> Tensor:
        """Map (N, 2 x channels, H, W) to (N, channels, H, W) in (0, 1)."""
        statistics = []
        for features in both.chunk(2, dim=1):
            maximum = features.amax(dim=1, keepdim=True)
            if self.in_channels < 2 * self.num_positions:
                maximum = maximum.clamp_min(0)
            statistics += [features.sum(dim=1, keepdim=True) / self.num_positions, maximum]
        weights: Tensor = self.mix(torch.cat(statistics, dim=1)).sigmoid()
        return weights.expand(-1, self.out_channels, -1, -1)


class CoordinateAttention(nn.Module):
    """Coordinate attention: reweights every channel by row and by column.

    Source: Hou et al., https://arxiv.org/abs/2103.02907, equations 4 to 9.
    Differs: rows and columns are split from one tensor of length H + W, as in the authors' code.

    Args:
        channels: Channels of the input and of the output.
        reduction: Ratio of the input's channels to those of the bottleneck.
        min_channels: Smallest number of channels of the bottleneck.
    """

    def __init__(self, channels: int, reduction: int = 32, min_channels: int = 8) -> None:
        super().__init__()
        squeezed = max(min_channels, channels // reduction)
        self.squeeze = nn.Sequential(
            nn.Conv2d(channels, squeezed, 1), nn.BatchNorm2d(squeezed), nn.Hardswish()
        )
        self.rows = nn.Conv2d(squeezed, channels, 1)
        self.columns = nn.Conv2d(squeezed, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        height, width = features.shape[-2:]
        rows = features.mean(dim=3, keepdim=True)
        columns = features.mean(dim=2, keepdim=True).transpose(2, 3)
        both = self.squeeze(torch.cat((rows, columns), dim=2))
        rows, columns = both.split((height, width), dim=2)
        row_weights = self.rows(rows).sigmoid()
        column_weights = self.columns(columns.transpose(2, 3)).sigmoid()
        weighted: Tensor = features * row_weights * column_weights
        return weighted
