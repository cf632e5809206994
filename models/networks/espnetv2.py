"""ESPNetv2: depthwise pyramids that read the image again at every level, in five widths."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.channel_layers import ChannelSum
from models.blocks.layers import BNPReLU, ConvBN, ConvBNPReLU
from models.network import SegmentationNetwork

SCALES = (0.5, 1.0, 1.25, 1.5, 2.0)
POOLING_SCALES = (2.0, 1.5, 1.0, 0.5, 0.1)
_DECODER_CHANNELS = (64, 48, 32)
_MIN_POOLED_SIZE = 5


class ESPNetV2(SegmentationNetwork):
    """ESPNetv2 with the decoder of its authors' EdgeNets: 0.080 to 0.789 M parameters.

    With 20 classes it has 80,230, 233,786, 468,010 and 788,762 parameters at the scales 0.5, 1.0,
    1.5 and 2.0. The authors' code has 80,342, 234,010, 468,362 and 789,242; the difference is a
    PReLU in each strided unit that is never used.

    Source: Mehta et al., "ESPNetv2: a light-weight, power efficient, and general purpose
        convolutional neural network", https://arxiv.org/abs/1811.11431; sacmehta/EdgeNets, whose
        weights `models.pretrained` loads.
    Differs: the decoder's shuffled, grouped convolutions are written as sums of depthwise ones,
        which compute the same and can be pruned; maps are resized to each other's size, not by a
        factor of 2, so that any image size works.

    Args:
        num_classes: Number of classes, at least 2.
        scale: Factor on the encoder's channels, one of `SCALES`.
    """

    def __init__(self, num_classes: int = 19, *, scale: float = 2.0) -> None:
        if scale not in SCALES:
            raise ValueError(f"scale must be one of {SCALES}, got {scale!r}")
        super().__init__()
        c1 = int(min(32, 32 * scale))
        c2, c3, c4 = (int(scale * channels) for channels in (64, 128, 256))
        self.level1 = ConvBNPReLU(3, c1, 3, stride=2)
        self.level2_down = StridedEESP(c1, c2)
        self.level3_down = StridedEESP(c2, c3)
        self.level3 = nn.Sequential(*(ResidualEESP(c3, (1, 2, 3, 4)) for _ in range(3)))
        self.level4_down = StridedEESP(c3, c4)
        self.level4 = nn.Sequential(*(ResidualEESP(c4, (1, 1, 2, 3)) for _ in range(7)))

        d3, d2, d1 = _DECODER_CHANNELS
        width = min(num_classes // 2, 16)
        self.pyramid4 = nn.Sequential(EfficientPyramidPooling(c4, width, d3), BNPReLU(d3))
        self.merge3 = EfficientMerge(c3, d3)
        self.pyramid3 = nn.Sequential(EfficientPyramidPooling(d3, width, d2), BNPReLU(d2))
        self.merge2 = EfficientMerge(c2, d2)
        self.pyramid2 = nn.Sequential(EfficientPyramidPooling(d2, width, d1), BNPReLU(d1))
        self.merge1 = EfficientMerge(c1, d1)
        self.pyramid1 = EfficientPyramidPooling(d1, width, num_classes, bias=True)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        level1 = self.level1(images)
        level2 = self.level2_down(level1, images)
        level3 = self.level3(self.level3_down(level2, images))
        level4 = self.level4(self.level4_down(level3, images))

        decoded = self.merge3(level3, self.pyramid4(level4))
        decoded = self.merge2(level2, self.pyramid3(decoded))
        decoded = self.merge1(level1, self.pyramid2(decoded))
        return (_align_corners(self.pyramid1(decoded), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.pyramid1.project,)


class EESP(nn.Module):
    """EESP module: grouped 1x1, four dilated depthwise views summed cumulatively, grouped 1x1.

    Source: Mehta et al., section 3.1 (extremely efficient spatial pyramid).

    Args:
        in_channels: Channels of the input, a multiple of the number of dilations.
        out_channels: Channels of the output, a multiple of the number of dilations.
        dilations: Dilation of each depthwise 3x3 convolution.
        stride: Stride of those convolutions.
    """

    def __init__(
        self, in_channels: int, out_channels: int, dilations: tuple[int, ...], *, stride: int = 1
    ) -> None:
        super().__init__()
        groups = len(dilations)
        width = out_channels // groups
        self.reduce = ConvBNPReLU(in_channels, width, 1, groups=groups)
        self.views = nn.ModuleList(
            nn.Conv2d(width, width, 3, stride, d, dilation=d, groups=width, bias=False)
            for d in dilations
        )
        self.norm = BNPReLU(out_channels)
        self.expand = ConvBN(out_channels, out_channels, 1, groups=groups)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        reduced = self.reduce(features)
        sums = accumulate(view(reduced) for view in self.views)
        expanded: Tensor = self.expand(self.norm(torch.cat(tuple(sums), dim=1)))
        return expanded


class ResidualEESP(nn.Module):
    """`EESP`, plus its input, then a PReLU."""

    def __init__(self, channels: int, dilations: tuple[int, ...]) -> None:
        super().__init__()
        self.eesp = EESP(channels, channels, dilations)
        self.act = nn.PReLU(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        activated: Tensor = self.act(self.eesp(features) + features)
        return activated


class StridedEESP(nn.Module):
    """Halves the size: pooling next to a strided `EESP`, plus the downsampled image, then a PReLU.

    Source: Mehta et al., section 3.2 and figure 2 ("long-range shortcut connection").

    Args:
        in_channels: Channels of the input; pooled, they are the first channels of the output.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.eesp = EESP(in_channels, out_channels - in_channels, (1, 2, 3, 4), stride=2)
        self.reinforce = nn.Sequential(ConvBNPReLU(3, 3, 3), ConvBN(3, out_channels, 1))
        self.act = nn.PReLU(out_channels)

    def forward(self, features: Tensor, images: Tensor) -> Tensor:
        """Map (N, in_channels, h, w) and (N, 3, H, W) to (N, out_channels, h / 2, w / 2)."""
        pooled = F.avg_pool2d(features, 3, stride=2, padding=1)
        halved = torch.cat((pooled, self.eesp(features)), dim=1)
        while images.shape[-2] > pooled.shape[-2]:
            images = F.avg_pool2d(images, 3, stride=2, padding=1)
        activated: Tensor = self.act(halved + self.reinforce(images))
        return activated


class EfficientPyramidPooling(nn.Module):
    """Convolves a narrow projection at five sizes and fuses the results channel by channel.

    Source: sacmehta/EdgeNets, `EfficientPyrPool`.
    Differs: there the five results are concatenated, shuffled and read by a grouped convolution.
        Here each has a depthwise convolution and the outputs are summed, which is equivalent.

    Args:
        in_channels: Channels of the input.
        width: Channels of the projection.
        out_channels: Channels of the output.
        bias: Whether the last convolution has a bias.
    """

    def __init__(
        self, in_channels: int, width: int, out_channels: int, *, bias: bool = False
    ) -> None:
        super().__init__()
        self.reduce = ConvBNPReLU(in_channels, width, 1)
        self.views = nn.ModuleList(_depthwise(width) for _ in POOLING_SCALES)
        self.norms = nn.ModuleList(BNPReLU(width) for _ in POOLING_SCALES)
        self.fuse = nn.ModuleList(_depthwise(width) for _ in POOLING_SCALES)
        self.norm = BNPReLU(width)
        self.project = nn.Conv2d(width, out_channels, 1, bias=bias)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        reduced = self.reduce(features)
        views = [
            fuse(norm(_view_at(reduced, scale, view)))
            for scale, view, norm, fuse in zip(
                POOLING_SCALES, self.views, self.norms, self.fuse, strict=True
            )
        ]
        projected: Tensor = self.project(self.norm(sum(views[1:], start=views[0])))
        return projected


class EfficientMerge(nn.Module):
    """Adds an encoder's map to the decoder's: grouped 3x3, reweighted by the global mean.

    Source: sacmehta/EdgeNets, `EfficientPWConv`, and the layers after it.
    Differs: where each group has several inputs and one output, we use a depthwise convolution and
        sum runs of channels, which computes the same and can be pruned.

    Args:
        in_channels: Channels of the encoder's map.
        out_channels: Channels of the decoder's map.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        groups = math.gcd(in_channels, out_channels)
        self.weigh = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.expand = ConvBNPReLU(in_channels, out_channels, 3, groups=groups)
        if groups == out_channels < in_channels:
            self.expand[0] = nn.Sequential(
                _depthwise(in_channels), ChannelSum(in_channels, out_channels)
            )
        self.norm = BNPReLU(out_channels)

    def forward(self, encoded: Tensor, decoded: Tensor) -> Tensor:
        """Merge (N, in_channels, H, W) and (N, out_channels, h, w) to (N, out_channels, H, W)."""
        weights = self.weigh(F.adaptive_avg_pool2d(encoded, 1)).sigmoid()
        decoded = _align_corners(decoded, encoded.shape[-2:])
        merged: Tensor = self.norm(self.expand(encoded) * weights + decoded)
        return merged


def _view_at(features: Tensor, scale: float, view: nn.Module) -> Tensor:
    """Apply a layer to the map at another size, and return the result at the map's own size."""
    height, width = features.shape[-2:]
    size = (
        max(_MIN_POOLED_SIZE, math.ceil(height * scale)),
        max(_MIN_POOLED_SIZE, math.ceil(width * scale)),
    )
    if scale > 1:
        enlarged: Tensor = view(_align_corners(features, size))
        return F.adaptive_avg_pool2d(enlarged, (height, width))
    if scale < 1:
        return _align_corners(view(F.adaptive_avg_pool2d(features, size)), (height, width))
    viewed: Tensor = view(features)
    return viewed


def _depthwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)


def _align_corners(features: Tensor, size: Sequence[int]) -> Tensor:
    """Resize with aligned corners, as these networks were trained."""
    return F.interpolate(features, size=tuple(size), mode="bilinear", align_corners=True)
