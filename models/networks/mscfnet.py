"""MSCFNet: asymmetric residual blocks, and a decoder on three scales with attention."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from models.blocks.attention import EfficientChannelAttention
from models.blocks.conv_pool_downsampling import ConvPoolDownsampling
from models.blocks.layers import BNPReLU, ConvBNPReLU, resize
from models.network import SegmentationNetwork

QUARTER_DILATIONS = (1, 1, 1)
EIGHTH_DILATIONS = (2, 4, 8, 16) * 5


class MSCFNet(SegmentationNetwork):
    """An encoder to 1/8, deconvolutions back to 1/2, and attention on the decoder's inputs.

    1.1497 M parameters with 19 classes; published 1.15 M.

    Source: Gao et al., "MSCFNet: a lightweight network with multi-scale context fusion for
        real-time semantic segmentation", https://arxiv.org/abs/2103.13044.
    Differs: only the abstract was available, which names the parts: blocks of factorised depthwise
        and dilated convolutions, deconvolutions, and branches at several scales with efficient
        attention, combined before the classifier. The widths, the number of blocks, their dilations
        and how the branches are joined (added) are our reconstruction, chosen to meet the published
        size: blocks and stages as in DABNet (https://arxiv.org/abs/1907.11357), deconvolutions as
        in ERFNet (https://ieeexplore.ieee.org/document/8063438).

    Args:
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.initial = nn.Sequential(
            ConvBNPReLU(3, 32, 3, stride=2), ConvBNPReLU(32, 32, 3), ConvBNPReLU(32, 32, 3)
        )
        self.stage2 = _create_stage(32, 64, QUARTER_DILATIONS)
        self.stage3 = _create_stage(64, 128, EIGHTH_DILATIONS)
        self.attend1, self.attend2, self.attend3 = (
            EfficientChannelAttention(channels) for channels in (32, 64, 128)
        )
        self.up2 = Deconvolution(128, 64)
        self.up1 = Deconvolution(64, 32)
        self.classifier = nn.ConvTranspose2d(32, num_classes, 2, stride=2)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        half = self.initial(images)
        quarter = self.stage2(half)
        eighth = self.stage3(quarter)
        fused = self.up2(self.attend3(eighth), quarter.shape[-2:]) + self.attend2(quarter)
        fused = self.up1(fused, half.shape[-2:]) + self.attend1(half)
        return (resize(self.classifier(fused), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class EfficientAsymmetricResidual(nn.Module):
    """EAR: 3x1 and 1x3 to half the channels, two depthwise pairs (one dilated), 1x1, sum.

    Args:
        channels: Channels of the input and of the output.
        dilation: Dilation of the second depthwise pair.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        narrow = channels // 2
        self.reduce = nn.Sequential(
            ConvBNPReLU(channels, narrow, (3, 1)), ConvBNPReLU(narrow, narrow, (1, 3))
        )
        self.plain = _create_depthwise_pair(narrow, 1)
        self.dilated = _create_depthwise_pair(narrow, dilation)
        self.expand = nn.Sequential(BNPReLU(narrow), nn.Conv2d(narrow, channels, 1, bias=False))
        self.activate = BNPReLU(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        reduced = self.reduce(features)
        both = self.plain(reduced) + self.dilated(reduced)
        return self.activate(features + self.expand(both))  # type: ignore[no-any-return]


class Deconvolution(nn.Module):
    """Doubles the size of a map by a transposed 3x3 convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(
            in_channels, out_channels, 3, stride=2, padding=1, output_padding=1, bias=False
        )
        self.normalize = BNPReLU(out_channels)

    def forward(self, features: Tensor, size: Sequence[int]) -> Tensor:
        """Map (N, in_channels, h, w) to (N, out_channels, *size)."""
        return self.normalize(resize(self.conv(features), size))  # type: ignore[no-any-return]


def _create_stage(in_channels: int, out_channels: int, dilations: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(
        ConvPoolDownsampling(in_channels, out_channels, nn.PReLU(out_channels)),
        *(EfficientAsymmetricResidual(out_channels, dilation) for dilation in dilations),
    )


def _create_depthwise_pair(channels: int, dilation: int) -> nn.Sequential:
    return nn.Sequential(
        ConvBNPReLU(channels, channels, (3, 1), dilation=dilation, groups=channels),
        ConvBNPReLU(channels, channels, (1, 3), dilation=dilation, groups=channels),
    )
