"""Attention: layers that reweight a map by what they see in it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks.layers import ConvBN, ConvBNReLU
from models.channels.layers import ChannelLayer


class EfficientChannelAttention(ChannelLayer):
    """Reweights every channel by the means of its neighbours among the channels (ECA).

    A removed channel keeps its place in the row of means, as the zero that a silenced channel has
    there, so that the others see the neighbours they were trained with.

    Source: Wang et al., "ECA-Net", https://arxiv.org/abs/1910.03151, equations 5 and 6.

    Args:
        channels: Channels of the input and of the output.
        kernel_size: Neighbours that decide on a channel, itself included; odd.
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
            row = means.new_zeros(len(means), self.num_positions)
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
    """Reweights every place by the mean and the maximum over its channels.

    Once channels were removed, the mean still divides by their first number and the maximum is at
    least zero: a silenced channel would be zero there.

    Source: Woo et al., "CBAM", https://arxiv.org/abs/1807.06521, equation 5.

    Args:
        channels: Channels of the input and of the output.
        kernel_size: Of the convolution over mean and maximum; odd.
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


class PlaceWeights(ChannelLayer):
    """How much each place of one map counts against another, by their means and maxima.

    The input is both maps, concatenated; both lose the same channels. Once channels were removed,
    the means still divide by their first number and the maxima are at least zero, as in
    `SpatialAttention`.

    Source: Peng et al., "PP-LiteSeg", https://arxiv.org/abs/2204.02681, equation 3.

    Args:
        channels: Channels of each map, and of the output, all of them equal.
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

    def get_sources(self) -> list[int]:
        """See `ChannelLayer.get_sources`."""
        return []

    def keep(self, inputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep`."""
        self.in_channels = len(inputs)

    def keep_outputs(self, outputs: Sequence[int]) -> None:
        """See `ChannelLayer.keep_outputs`."""
        self.out_channels = len(outputs)


class CoordinateAttention(nn.Module):
    """Reweights every channel by its row and by its column.

    Source: Hou et al., https://arxiv.org/abs/2103.02907, equations 4 to 9.
    Differs: rows and columns are joined by two views of one tensor of length H + W, as there.

    Args:
        channels: Channels of the input and of the output.
        reduction: The bottleneck has `channels / reduction` channels.
        min_channels: The bottleneck is never narrower than this.
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
