"""Layers that several networks share."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvBN(nn.Sequential):
    """A convolution without bias, then BatchNorm; at stride 1 the padding keeps the size.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd kernel size, or (height, width), both odd.
        stride: Stride of the convolution.
        dilation: Dilation of the convolution in both directions.
        groups: Groups of the convolution.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], *,
        stride: int = 1, dilation: int = 1, groups: int = 1,
    ) -> None:  # fmt: skip
        height, width = (
            kernel_size if isinstance(kernel_size, tuple) else (kernel_size, kernel_size)
        )
        padding = (dilation * (height // 2), dilation * (width // 2))
        conv = nn.Conv2d(
            in_channels, out_channels, (height, width), stride, padding, dilation, groups,
            bias=False,
        )  # fmt: skip
        super().__init__(conv, nn.BatchNorm2d(out_channels))


class ConvBNReLU(nn.Sequential):
    """`ConvBN` followed by a ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], *,
        stride: int = 1, dilation: int = 1, groups: int = 1,
    ) -> None:  # fmt: skip
        conv = ConvBN(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        super().__init__(*conv, nn.ReLU(inplace=True))


class BNReLUConv(nn.Sequential):
    """BatchNorm and ReLU before the convolution, whose padding keeps the size.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Odd kernel size.
        groups: Groups of the convolution.
        bias: Whether the convolution has a bias.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *,
        groups: int = 1, bias: bool = False,
    ) -> None:  # fmt: skip
        conv = nn.Conv2d(
            in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups,
            bias=bias,
        )  # fmt: skip
        super().__init__(nn.BatchNorm2d(in_channels), nn.ReLU(inplace=True), conv)


class BNPReLU(nn.Sequential):
    """BatchNorm, then a PReLU with a slope for each channel."""

    def __init__(self, channels: int) -> None:
        super().__init__(nn.BatchNorm2d(channels), nn.PReLU(channels))


class ConvBNPReLU(nn.Sequential):
    """`ConvBN` followed by a PReLU with a slope for each channel."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int | tuple[int, int], *,
        stride: int = 1, dilation: int = 1, groups: int = 1,
    ) -> None:  # fmt: skip
        conv = ConvBN(
            in_channels, out_channels, kernel_size, stride=stride, dilation=dilation, groups=groups
        )
        super().__init__(*conv, nn.PReLU(out_channels))


class ASPP(nn.Module):
    """Atrous spatial pyramid pooling: parallel branches on one map, concatenated and projected.

    Source: Chen et al., "Rethinking atrous convolution", https://arxiv.org/abs/1706.05587

    Args:
        in_channels: Channels of the input.
        branch_channels: Channels of each branch (1x1, one per dilation, global pooling).
        out_channels: Channels after the 3x3 projection.
        dilations: Dilation of each 3x3 branch.
    """

    def __init__(
        self, in_channels: int, branch_channels: int, out_channels: int,
        dilations: Sequence[int] = (6, 12, 18),
    ) -> None:  # fmt: skip
        super().__init__()
        branches = [ConvBNReLU(in_channels, branch_channels, 1)]
        branches += [ConvBNReLU(in_channels, branch_channels, 3, dilation=d) for d in dilations]
        self.branches = nn.ModuleList(branches)
        self.pooled = ConvBNReLU(in_channels, branch_channels, 1)
        num_branches = len(branches) + 1
        self.project = ConvBNReLU(num_branches * branch_channels, out_channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        size = features.shape[-2:]
        pooled = self.pooled(F.adaptive_avg_pool2d(features, 1))
        views = [branch(features) for branch in self.branches]
        views.append(pooled.expand(-1, -1, *size))
        return self.project(torch.cat(views, dim=1))  # type: ignore[no-any-return]


class FCNHead(nn.Sequential):
    """The usual auxiliary head: a 3x3 convolution, dropout, and a 1x1 convolution to the classes.

    Source: Long et al., https://arxiv.org/abs/1411.4038, as implemented in mmsegmentation.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__(
            ConvBNReLU(in_channels, channels, 3),
            nn.Dropout2d(0.1),
            nn.Conv2d(channels, num_classes, 1),
        )


def resize(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize (N, C, H, W) bilinearly to `size` (H', W'); maps of that size are returned."""
    if tuple(features.shape[-2:]) == tuple(size):
        return features
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=False)


def scale_channels(channels: int, width: float) -> int:
    """Scale a number of channels, rounded to a multiple of 8 and at least 8."""
    return max(8, 8 * math.floor(channels * width / 8 + 0.5))
