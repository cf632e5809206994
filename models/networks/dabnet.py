"""DABNet: bottlenecks with two branches (one dilated) of depthwise asymmetric convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.conv_pool_downsampling import ConvPoolDownsampling
from models.blocks.layers import BNPReLU, ConvBNPReLU, resize
from models.network import SegmentationNetwork


class DABNet(SegmentationNetwork):
    """Depthwise asymmetric bottlenecks at 1/4 and 1/8, concatenated with the downsampled image.

    0.757 M parameters with 19 classes; published 0.76 M.

    Source: Li et al., "DABNet: depth-wise asymmetric bottleneck for real-time semantic
        segmentation", https://arxiv.org/abs/1907.11357, section 3; details that it leaves open from
        the authors' code, https://github.com/Reagan1311/DABNet.

    Args:
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.initial = nn.Sequential(
            ConvBNPReLU(3, 32, 3, stride=2), ConvBNPReLU(32, 32, 3), ConvBNPReLU(32, 32, 3)
        )
        self.norm1 = BNPReLU(35)
        self.down1 = ConvPoolDownsampling(35, 64, nn.PReLU(64))
        self.block1 = _make_block(64, (2, 2, 2))
        self.norm2 = BNPReLU(131)
        self.down2 = ConvBNPReLU(131, 128, 3, stride=2)
        self.block2 = _make_block(128, (4, 4, 8, 8, 16, 16))
        self.norm3 = BNPReLU(259)
        self.classifier = nn.Conv2d(259, num_classes, 1, bias=False)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        half = F.avg_pool2d(images, 3, stride=2, padding=1)
        quarter = F.avg_pool2d(half, 3, stride=2, padding=1)
        eighth = F.avg_pool2d(quarter, 3, stride=2, padding=1)
        features = self.norm1(torch.cat((self.initial(images), half), dim=1))
        first = self.down1(features)
        features = self.norm2(torch.cat((self.block1(first), first, quarter), dim=1))
        first = self.down2(features)
        features = self.norm3(torch.cat((self.block2(first), first, eighth), dim=1))
        return (resize(self.classifier(features), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class DABModule(nn.Module):
    """3x3 to half the channels, two parallel pairs of depthwise 3x1 and 1x3, 1x1 back, sum.

    Source: https://arxiv.org/abs/1907.11357, figure 3c.

    Args:
        channels: Channels of the input and of the output.
        dilation: Dilation of the second pair.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        half = channels // 2
        self.squeeze = nn.Sequential(BNPReLU(channels), ConvBNPReLU(channels, half, 3))
        self.local = _make_pair(half, 1)
        self.surround = _make_pair(half, dilation)
        self.expand = nn.Sequential(BNPReLU(half), nn.Conv2d(half, channels, 1, bias=False))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        squeezed = self.squeeze(features)
        both = self.local(squeezed) + self.surround(squeezed)
        return features + self.expand(both)  # type: ignore[no-any-return]


def _make_block(channels: int, dilations: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(DABModule(channels, dilation) for dilation in dilations))


def _make_pair(channels: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        ConvBNPReLU(channels, channels, (3, 1), dilation=dilation, groups=channels),
        ConvBNPReLU(channels, channels, (1, 3), dilation=dilation, groups=channels),
    )
