"""NDNet: a narrow and deep backbone of separable convolutions with a small decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.layers import ConvBN, ConvBNReLU, resize
from models.network import SegmentationNetwork


class NDNet(SegmentationNetwork):
    """A backbone of 45 layers at 1/16, fused with its own features at 1/8.

    0.503 M parameters with 19 classes and the auxiliary head, 0.482 M without; published 0.50 M.
    6.74 GMAC at 1024x2048; published 14.0 G, counting a multiply-accumulate as two.

    Source: Yang et al., "NDNet: narrow while deep network for real-time semantic segmentation",
        IEEE T-ITS, 2020, https://ieeexplore.ieee.org/document/9078852. Details that its summary
        leaves open are from the authors' code, https://github.com/zgyang-hnu/NDNet: NDNet-45
        (blocks 4, 12 and 6, narrow widths 16, 32 and 64), the last stage dilated instead of
        strided, the fusion by a 1x1 convolution at 1/8, the head of one separable convolution.
    Differs: maps are resized without aligned corners, as in every network here.

    Args:
        num_classes: Number of classes, at least 2.
        auxiliary: Whether train mode also returns the logits of a head on the second stage, which
            the authors weight by 0.4.
    """

    def __init__(self, num_classes: int = 19, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            ConvBNReLU(3, 8, 3, stride=2), nn.MaxPool2d(3, stride=2, padding=1)
        )
        self.stage1 = _make_stage(8, 64, num_blocks=4, stride=2)
        self.stage2 = _make_stage(64, 128, num_blocks=12, stride=2)
        self.stage3 = _make_stage(128, 256, num_blocks=6, dilation=2)
        self.fusion = ConvBNReLU(256 + 64, 256, 1)
        self.head = Head(256, 64, num_classes)
        self.auxiliary_head = Head(128, 128, num_classes) if auxiliary else None

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        size = images.shape[-2:]
        fine = self.stage1(self.stem(images))
        middle = self.stage2(fine)
        coarse = resize(self.stage3(middle), fine.shape[-2:])
        logits = self.head(self.fusion(torch.cat((coarse, fine), dim=1)))
        if not with_auxiliary or self.auxiliary_head is None:
            return (resize(logits, size),)
        return resize(logits, size), resize(self.auxiliary_head(middle), size)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        if self.auxiliary_head is None:
            return (self.head[-1],)
        return self.head[-1], self.auxiliary_head[-1]


class SeparableConvBN(nn.Sequential):
    """A depthwise 3x3 and a 1x1 convolution without an activation in between, then BatchNorm."""

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, dilation: int = 1
    ) -> None:
        depthwise = nn.Conv2d(
            in_channels, in_channels, 3, stride, dilation, dilation, in_channels, bias=False
        )
        super().__init__(depthwise, *ConvBN(in_channels, out_channels, 1))


class NarrowBottleneck(nn.Module):
    """Two separable convolutions, to a quarter of the channels and back; sum, ReLU.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output.
        stride: Stride of the first convolution.
        dilation: Dilation of every convolution.
        identity: Whether the shortcut is the input itself; else a separable convolution of it.
    """

    def __init__(
        self, in_channels: int, channels: int, *, stride: int = 1, dilation: int = 1,
        identity: bool = True,
    ) -> None:  # fmt: skip
        super().__init__()
        narrow = channels // 4
        self.branch = nn.Sequential(
            SeparableConvBN(in_channels, narrow, stride=stride, dilation=dilation),
            nn.ReLU(inplace=True),
            SeparableConvBN(narrow, channels, dilation=dilation),
        )
        self.shortcut = (
            nn.Identity() if identity
            else SeparableConvBN(in_channels, channels, stride=stride, dilation=dilation)
        )  # fmt: skip

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H / stride, W / stride)."""
        return F.relu(self.branch(features) + self.shortcut(features))


class Head(nn.Sequential):
    """A separable convolution, BatchNorm and ReLU, then 1x1 to the classes."""

    def __init__(self, in_channels: int, channels: int, num_classes: int) -> None:
        super().__init__(
            SeparableConvBN(in_channels, channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels, num_classes, 1),
        )


def _make_stage(
    in_channels: int, channels: int, *, num_blocks: int, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    first = NarrowBottleneck(
        in_channels, channels, stride=stride, dilation=dilation, identity=False
    )
    others = (NarrowBottleneck(channels, channels, dilation=dilation) for _ in range(1, num_blocks))
    return nn.Sequential(first, *others)
