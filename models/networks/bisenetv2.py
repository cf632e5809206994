"""BiSeNetV2: a wide shallow branch for details and a narrow deep one for semantics."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.layers import ConvBN, ConvBNReLU, FCNHead, resize
from models.network import SegmentationNetwork


class BiSeNetV2(SegmentationNetwork):
    """Details at 1/8 and semantics at 1/32 that weight each other before they are added.

    3.359 M parameters with 19 classes and no auxiliary heads (4.735 M with them); published 3.36 M.

    Source: Yu et al., https://arxiv.org/abs/2004.02147, table 1 and figures 3 to 6; widths of the
        heads as in mmsegmentation's `bisenetv2`.
    Differs: as in mmsegmentation there is a ReLU after the expansion, and BatchNorm and ReLU after
        the last convolution of the context embedding.

    Args:
        num_classes: Number of classes, at least 2.
        auxiliary: Whether train mode also returns the logits of the paper's four booster heads,
            on the stages of the semantic branch.
    """

    def __init__(self, num_classes: int = 19, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.detail = nn.Sequential(
            ConvBNReLU(3, 64, 3, stride=2),
            ConvBNReLU(64, 64, 3),
            ConvBNReLU(64, 64, 3, stride=2),
            ConvBNReLU(64, 64, 3),
            ConvBNReLU(64, 64, 3),
            ConvBNReLU(64, 128, 3, stride=2),
            ConvBNReLU(128, 128, 3),
            ConvBNReLU(128, 128, 3),
        )
        self.stem = Stem(16)
        self.semantic = nn.ModuleList(
            (
                _make_stage(16, 32, num_layers=2),
                _make_stage(32, 64, num_layers=2),
                _make_stage(64, 128, num_layers=4),
            )
        )
        self.context = ContextEmbedding(128)
        self.aggregation = GuidedAggregation(128)
        self.head = FCNHead(128, 1024, num_classes)
        widths = ((16, 16), (32, 64), (64, 256), (128, 1024)) if auxiliary else ()
        self.auxiliary_heads = nn.ModuleList(FCNHead(c, w, num_classes) for c, w in widths)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        size = images.shape[-2:]
        stages = [self.stem(images)]
        for stage in self.semantic:
            stages.append(stage(stages[-1]))
        fused = self.aggregation(self.detail(images), self.context(stages[-1]))
        outputs = [self.head(fused)]
        if with_auxiliary:
            heads = zip(self.auxiliary_heads, stages, strict=False)
            outputs += [head(features) for head, features in heads]
        return tuple(resize(output, size) for output in outputs)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        heads = (self.head, *self.auxiliary_heads)
        return tuple(head[-1] for head in heads)


class Stem(nn.Module):
    """Downsamples to 1/4 by convolution and by max-pooling in parallel (figure 4a).

    Args:
        channels: Channels of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = ConvBNReLU(3, channels, 3, stride=2)
        self.convolved = nn.Sequential(
            ConvBNReLU(channels, channels // 2, 1),
            ConvBNReLU(channels // 2, channels, 3, stride=2),
        )
        self.fuse = ConvBNReLU(2 * channels, channels, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, channels, H / 4, W / 4)."""
        half = self.first(images)
        pooled = F.max_pool2d(half, 3, stride=2, padding=1)
        fused: Tensor = self.fuse(torch.cat((self.convolved(half), pooled), dim=1))
        return fused


class GatherExpansion(nn.Module):
    """3x3, depthwise expansion, 1x1, and a residual sum (figure 5b and c).

    Differs: the depthwise convolution with multiplier six is written as six depthwise convolutions.
        This is the same function with another order of channels, and pruning can follow each
        channel.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; equal to the input's at stride 1.
        stride: Stride, 1 or 2; stride 2 adds a second depthwise convolution and one in the
            shortcut.
        expansion: Expansion factor of the inner channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, expansion: int = 6
    ) -> None:
        super().__init__()
        self.gather = ConvBNReLU(in_channels, in_channels, 3)
        self.depthwise = nn.ModuleList(
            _make_depthwise(in_channels, stride) for _ in range(expansion)
        )
        self.project = ConvBN(expansion * in_channels, out_channels, 1)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut.append(ConvBN(in_channels, in_channels, 3, stride=2, groups=in_channels))
            self.shortcut.append(ConvBN(in_channels, out_channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        gathered = self.gather(features)
        expanded = torch.cat([depthwise(gathered) for depthwise in self.depthwise], dim=1)
        return torch.relu(self.project(expanded.relu()) + self.shortcut(features))


class ContextEmbedding(nn.Module):
    """Adds global context to every pixel (figure 4b).

    Args:
        channels: Channels of the input and of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.project = ConvBNReLU(channels, channels, 1)
        self.mix = ConvBNReLU(channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        pooled = self.norm(F.adaptive_avg_pool2d(features, 1))
        mixed: Tensor = self.mix(features + self.project(pooled))
        return mixed


class GuidedAggregation(nn.Module):
    """Each branch weights the other one, at the scales of both (figure 6).

    Args:
        channels: Channels of both inputs and of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail_keep = _make_separable(channels)
        self.detail_down = nn.Sequential(
            ConvBN(channels, channels, 3, stride=2), nn.AvgPool2d(3, stride=2, padding=1)
        )
        self.semantic_up = ConvBN(channels, channels, 3)
        self.semantic_keep = _make_separable(channels)
        self.fuse = ConvBNReLU(channels, channels, 3)

    def forward(self, detail: Tensor, semantic: Tensor) -> Tensor:
        """Fuse (N, channels, H, W) and (N, channels, H / 4, W / 4) to (N, channels, H, W)."""
        size = detail.shape[-2:]
        fine = self.detail_keep(detail) * resize(self.semantic_up(semantic), size).sigmoid()
        coarse = self.detail_down(detail) * self.semantic_keep(semantic).sigmoid()
        fused: Tensor = self.fuse(fine + resize(coarse, size))
        return fused


def _make_stage(in_channels: int, out_channels: int, *, num_layers: int) -> nn.Sequential:
    """Return the layers of a semantic stage; the first one halves the size."""
    first = GatherExpansion(in_channels, out_channels, stride=2)
    rest = (GatherExpansion(out_channels, out_channels) for _ in range(num_layers - 1))
    return nn.Sequential(first, *rest)


def _make_depthwise(channels: int, stride: int) -> nn.Sequential:
    """Return one depthwise 3x3, or two of which the first one halves the size."""
    layers = nn.Sequential(ConvBN(channels, channels, 3, stride=stride, groups=channels))
    return layers if stride == 1 else layers.append(ConvBN(channels, channels, 3, groups=channels))


def _make_separable(channels: int) -> nn.Sequential:
    depthwise = ConvBN(channels, channels, 3, groups=channels)
    return nn.Sequential(*depthwise, nn.Conv2d(channels, channels, 1, bias=False))
