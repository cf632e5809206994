"""LEDNet: residual blocks with channel split and shuffle, and an attention pyramid as decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.channel_layers import ChannelHalf, ChannelShuffle
from models.blocks.conv_pool_downsampling import ConvPoolDownsampling
from models.blocks.layers import resize
from models.network import SegmentationNetwork


class LEDNet(SegmentationNetwork):
    """An encoder of split-shuffle-non-bottlenecks down to 1/8, followed by an attention pyramid.

    0.923 M parameters with 19 classes, as in pytorchcv; published 0.94 M, while paper 3 states both
    0.95 M and 0.90 M.

    Source: Wang et al., "LEDNet: a lightweight encoder-decoder network for real-time semantic
        segmentation", https://arxiv.org/abs/1905.02423, table 1 and figures 1 to 3; details that it
        leaves open from the authors' code, https://github.com/xiaoyufenfei/LEDNet.

    Args:
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            ConvPoolDownsampling(3, 32, nn.ReLU(inplace=True), bias=True),
            *(SplitShuffleNonBottleneck(32, dropout=0.03) for _ in range(3)),
            ConvPoolDownsampling(32, 64, nn.ReLU(inplace=True), bias=True),
            *(SplitShuffleNonBottleneck(64, dropout=0.03) for _ in range(2)),
            ConvPoolDownsampling(64, 128, nn.ReLU(inplace=True), bias=True),
            *(
                SplitShuffleNonBottleneck(128, dilation=dilation, dropout=0.3)
                for dilation in (1, 2, 5, 9, 2, 5, 9, 17)
            ),
        )
        self.decoder = AttentionPyramid(128, num_classes)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        logits = self.decoder(self.encoder(images))
        return (resize(logits, images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return self.decoder.classes[0], self.decoder.pooled[0]


class SplitShuffleNonBottleneck(nn.Module):
    """SS-nbt: asymmetric convolutions on each half of the channels; concat, sum, shuffle.

    Source: https://arxiv.org/abs/1905.02423, figure 2d.

    Args:
        channels: Channels of the input and of the output, an even number.
        dilation: Dilation of the second pair of convolutions.
        dropout: Dropout probability of a channel.
    """

    def __init__(self, channels: int, *, dilation: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.first = nn.Sequential(
            ChannelHalf(channels, 0), *_create_branch(channels // 2, (3, 1), dilation, dropout)
        )
        self.second = nn.Sequential(
            ChannelHalf(channels, 1), *_create_branch(channels // 2, (1, 3), dilation, dropout)
        )
        self.shuffle = ChannelShuffle(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        both = torch.cat((self.first(features), self.second(features)), dim=1)
        return self.shuffle(F.relu(features + both))  # type: ignore[no-any-return]


class AttentionPyramid(nn.Module):
    """APN: logits weighted by an attention map from three scales, plus globally pooled logits.

    Source: https://arxiv.org/abs/1905.02423, figure 3.

    Args:
        in_channels: Channels of the input.
        num_classes: Channels of the output.
    """

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        self.pooled = _create_conv(in_channels, num_classes, 1)
        self.classes = _create_conv(in_channels, num_classes, 1)
        self.down1 = _create_conv(in_channels, 1, 7, stride=2)
        self.down2 = _create_conv(1, 1, 5, stride=2)
        self.down3 = nn.Sequential(_create_conv(1, 1, 3, stride=2), _create_conv(1, 1, 3))
        self.lateral2 = _create_conv(1, 1, 5)
        self.lateral1 = _create_conv(1, 1, 7)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, num_classes, H, W)."""
        half = self.down1(features)
        quarter = self.down2(half)
        attention = resize(self.down3(quarter), quarter.shape[-2:]) + self.lateral2(quarter)
        attention = resize(attention, half.shape[-2:]) + self.lateral1(half)
        attention = resize(attention, features.shape[-2:])
        pooled = self.pooled(F.adaptive_avg_pool2d(features, 1))
        return self.classes(features) * attention + pooled  # type: ignore[no-any-return]


def _create_branch(
    channels: int, kernel_size: tuple[int, int], dilation: int, dropout: float
) -> list[nn.Module]:
    """List the layers of one branch: a kernel and its transpose, undilated and then dilated."""
    layers: list[nn.Module] = []
    for d in (1, dilation):
        for (height, width), following in (
            (kernel_size, nn.ReLU(inplace=True)),
            (kernel_size[::-1], nn.BatchNorm2d(channels)),
        ):
            padding = (d * (height // 2), d * (width // 2))
            conv = nn.Conv2d(channels, channels, (height, width), 1, padding, (d, d))
            layers += [conv, following]
        layers.append(nn.ReLU(inplace=True))
    return [*layers[:-1], nn.Dropout2d(dropout)]


def _create_conv(
    in_channels: int, out_channels: int, kernel: int, stride: int = 1
) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )
