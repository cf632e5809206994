"""Fast-SCNN: two branches that share their first three layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.layers import ConvBN, ConvBNReLU, FCNHead, resize
from models.network import SegmentationNetwork
from models.networks.pspnet import PyramidPooling


class FastSCNN(SegmentationNetwork):
    """Learned downsampling to 1/8, global features at 1/32, and a skip connection at 1/8.

    1.400 M parameters with 19 classes; paper 1 states 1.40 M, the number of mmsegmentation's
    implementation.

    Source: Poudel et al., https://arxiv.org/abs/1902.04502, tables 1 to 3; the pyramid's widths and
        the auxiliary heads as in mmsegmentation's `fast_scnn`.
    Differs: the convolution after the pyramid is 3x3, as in mmsegmentation; with a 1x1 it would
        have 1.138 M parameters, and the network's own paper states 1.11 M.

    Args:
        num_classes: Number of classes, at least 2.
        auxiliary: Whether train mode also returns the logits of two FCN heads: on the pyramid and
            on the shared layers.
    """

    def __init__(self, num_classes: int = 19, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.learning_to_downsample = nn.Sequential(
            ConvBNReLU(3, 32, 3, stride=2),
            SeparableConv(32, 48, stride=2),
            SeparableConv(48, 64, stride=2),
        )
        self.global_features = nn.Sequential(
            *_make_stage(64, 64, stride=2),
            *_make_stage(64, 96, stride=2),
            *_make_stage(96, 128, stride=1),
            PyramidPooling(128, 32),
            ConvBNReLU(256, 128, 3),
        )
        self.fusion = FeatureFusion(128, 64, 128)
        self.classifier = nn.Sequential(
            SeparableConv(128, 128),
            SeparableConv(128, 128),
            nn.Dropout(0.1),
            nn.Conv2d(128, num_classes, 1),
        )
        widths = (128, 64) if auxiliary else ()
        self.auxiliary_heads = nn.ModuleList(FCNHead(c, 32, num_classes) for c in widths)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        size = images.shape[-2:]
        details = self.learning_to_downsample(images)
        context = self.global_features(details)
        outputs = [self.classifier(self.fusion(context, details))]
        if with_auxiliary:
            heads = zip(self.auxiliary_heads, (context, details), strict=False)
            outputs += [head(features) for head, features in heads]
        return tuple(resize(output, size) for output in outputs)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        heads = (self.classifier, *self.auxiliary_heads)
        return tuple(head[-1] for head in heads)


class SeparableConv(nn.Sequential):
    """The paper's DSConv: depthwise 3x3 and 1x1, with no ReLU in between.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        stride: Stride of the depthwise convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__(
            ConvBN(in_channels, in_channels, 3, stride=stride, groups=in_channels),
            ConvBNReLU(in_channels, out_channels, 1),
        )


class Bottleneck(nn.Module):
    """The inverted residual block of MobileNetV2, by default with expansion 6.

    Source: Sandler et al., https://arxiv.org/abs/1801.04381

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; the input is added if its shape equals the output's.
        stride: Stride of the depthwise convolution.
        expansion: Expansion factor of the inner channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, expansion: int = 6
    ) -> None:
        super().__init__()
        wide = expansion * in_channels
        self.layers = nn.Sequential(
            ConvBNReLU(in_channels, wide, 1),
            ConvBNReLU(wide, wide, 3, stride=stride, groups=wide),
            ConvBN(wide, out_channels, 1),
        )
        self.is_residual = stride == 1 and in_channels == out_channels

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        projected: Tensor = self.layers(features)
        return features + projected if self.is_residual else projected


class FeatureFusion(nn.Module):
    """Adds a coarse map (resized, depthwise 3x3 with dilation 4, 1x1) to a fine map (1x1).

    Source: Poudel et al., https://arxiv.org/abs/1902.04502, table 3.

    Args:
        coarse_channels: Channels of the coarse map.
        fine_channels: Channels of the fine map.
        out_channels: Channels of the output.
    """

    def __init__(self, coarse_channels: int, fine_channels: int, out_channels: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(
            ConvBNReLU(coarse_channels, coarse_channels, 3, dilation=4, groups=coarse_channels),
            ConvBN(coarse_channels, out_channels, 1),
        )
        self.fine = ConvBN(fine_channels, out_channels, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Fuse (N, coarse_channels, h, w) and (N, fine_channels, H, W) to (N, out, H, W)."""
        resized = resize(coarse, fine.shape[-2:])
        return torch.relu(self.coarse(resized) + self.fine(fine))


def _make_stage(in_channels: int, out_channels: int, *, stride: int) -> list[nn.Module]:
    """Return the three bottlenecks of a stage; the first one changes the shape."""
    first = Bottleneck(in_channels, out_channels, stride=stride)
    return [first, *(Bottleneck(out_channels, out_channels) for _ in range(2))]
