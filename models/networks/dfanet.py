"""DFANet: three light backbones in a row, each of which reads the features of the previous one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.layers import ConvBN, ConvBNReLU, resize
from models.network import SegmentationNetwork

WIDTHS = (48, 96, 192)
NUM_BLOCKS = (4, 6, 4)
_NUM_BACKBONES = 3
_IMAGENET_CLASSES = 1000


class DFANet(SegmentationNetwork):
    """DFANet A: the XceptionA backbone three times, at 1/4, 1/8 and 1/16 of the image.

    1.839 M parameters with 19 classes, 3.42 GMAC at 1024x1024 and 1.71 GMAC at 512x1024; published
    7.8 M, 3.4 G and 1.7 G. The widths are those of public implementations. They meet the published
    cost but not the 7.8 M: each of the three backbones has 0.17 to 0.24 M and its attention 0.39 M.

    Source: Li et al., "DFANet: deep feature aggregation for real-time semantic segmentation",
        https://arxiv.org/abs/1904.02216; the inputs of the stages also from
        https://github.com/LikeLy-Journey/SegmenTron.
    Differs: the fully connected layer of the attention is a 1x1 convolution of the pooled map,
        which is equivalent. The paper leaves open the decoder's width and kernels, and the position
        of the stride in a block; we chose them to meet the published cost.

    Args:
        num_classes: Number of classes, at least 2.
        decoder_channels: Channels of the decoder.
    """

    def __init__(self, num_classes: int = 19, *, decoder_channels: int = 32) -> None:
        super().__init__()
        w2, w3, w4 = WIDTHS
        self.stem = ConvBNReLU(3, 8, 3, stride=2)
        self.backbones = nn.ModuleList((XceptionA((8, w2, w3)),))
        self.backbones.extend(
            XceptionA((w2 + w4, w3 + w2, w4 + w3)) for _ in range(_NUM_BACKBONES - 1)
        )
        self.details = nn.ModuleList(ConvBNReLU(w2, decoder_channels, 1) for _ in self.backbones)
        self.blend = ConvBNReLU(decoder_channels, decoder_channels, 3)
        self.meanings = nn.ModuleList(ConvBNReLU(w4, decoder_channels, 1) for _ in self.backbones)
        self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        features = self.stem(images)
        earlier: tuple[Tensor, ...] = ()
        details: list[Tensor] = []
        meanings: list[Tensor] = []
        for backbone in self.backbones:
            earlier, meaning = backbone(features, earlier)
            details.append(earlier[0])
            meanings.append(meaning)
            features = torch.cat((earlier[0], resize(meaning, earlier[0].shape[-2:])), dim=1)

        size = details[0].shape[-2:]
        decoded = self.blend(_sum_resized(self.details, details, size))
        decoded = decoded + _sum_resized(self.meanings, meanings, size)
        return (resize(self.classifier(decoded), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class XceptionA(nn.Module):
    """Three stages of stride 2, each of which also reads that stage of the previous backbone.

    Source: https://arxiv.org/abs/1904.02216, "sub-stage aggregation".

    Args:
        in_channels: Input channels of each stage, including those from the previous backbone.
    """

    def __init__(self, in_channels: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            nn.Sequential(
                SeparableBlock(inputs, width, stride=2),
                *(SeparableBlock(width, width) for _ in range(num_blocks - 1)),
            )
            for inputs, width, num_blocks in zip(in_channels, WIDTHS, NUM_BLOCKS, strict=True)
        )
        self.attention = FullyConnectedAttention(WIDTHS[-1])

    def forward(
        self, features: Tensor, earlier: Sequence[Tensor]
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        """Run the three stages, and channel attention on the last one.

        Args:
            features: Input features, (N, C, H, W).
            earlier: Stages of the previous backbone, at H, H / 2 and H / 4; empty for the first
                one.

        Returns:
            The stages at H / 2, H / 4 and H / 8, and the last one after attention.
        """
        found: list[Tensor] = []
        for i, stage in enumerate(self.stages):
            if i and earlier:
                features = torch.cat((earlier[i], features), dim=1)
            features = stage(features)
            found.append(features)
        return tuple(found), self.attention(features)


class SeparableBlock(nn.Module):
    """Three separable convolutions, the last one four times as wide, with a shortcut.

    Source: Chollet, "Xception", https://arxiv.org/abs/1610.02357, narrowed for XceptionA.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        narrow = out_channels // 4
        self.convs = nn.Sequential(
            *_create_separable(in_channels, narrow, stride),
            *_create_separable(narrow, narrow),
            *_create_separable(narrow, out_channels),
        )
        is_same = in_channels == out_channels and stride == 1
        self.shortcut = (
            nn.Identity() if is_same else ConvBN(in_channels, out_channels, 1, stride=stride)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        return self.convs(features) + self.shortcut(features)  # type: ignore[no-any-return]


class FullyConnectedAttention(nn.Module):
    """Reweights every channel by the ImageNet class scores of the whole map.

    Source: https://arxiv.org/abs/1904.02216, "FC attention".

    Args:
        channels: Channels of the input and of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.classes = nn.Conv2d(channels, _IMAGENET_CLASSES, 1)
        self.weigh = ConvBNReLU(_IMAGENET_CLASSES, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        pooled = F.adaptive_avg_pool2d(features, 1)
        weighted: Tensor = features * self.weigh(self.classes(pooled))
        return weighted


def _create_separable(in_channels: int, out_channels: int, stride: int = 1) -> list[nn.Module]:
    return [
        nn.ReLU(),
        *ConvBN(in_channels, in_channels, 3, stride=stride, groups=in_channels),
        *ConvBN(in_channels, out_channels, 1),
    ]


def _sum_resized(layers: nn.ModuleList, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
    views = [resize(layer(view), size) for layer, view in zip(layers, maps, strict=True)]
    return sum(views[1:], start=views[0])
