"""RegSeg: a RegNet whose blocks mix small and large dilations, with a small decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.layers import ConvBN, ConvBNReLU, resize
from models.network import SegmentationNetwork

GROUP_WIDTH = 16


class RegSeg(SegmentationNetwork):
    """A network down to 1/16 only; dilations up to 14 give it a large field of view.

    The network has 3.367 M parameters with 19 classes. The published number, 3.34 M, is that of the
    author's code, which squeezes a block to a quarter of its input channels instead of its output
    channels.

    Source: Gao, https://arxiv.org/abs/2111.09957, table 1 and figures 1 to 3, and the author's
        code, https://github.com/RolandGao/RegSeg

    Args:
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.stem = ConvBNReLU(3, 32, 3, stride=2)
        self.quarter = DilatedBlock(32, 48, stride=2)
        self.eighth = nn.Sequential(
            DilatedBlock(48, 128, stride=2),
            *(DilatedBlock(128, 128) for _ in range(2)),
        )
        self.sixteenth = nn.Sequential(
            DilatedBlock(128, 256, stride=2),
            DilatedBlock(256, 256),
            DilatedBlock(256, 256, dilations=(1, 2)),
            *(DilatedBlock(256, 256, dilations=(1, 4)) for _ in range(4)),
            *(DilatedBlock(256, 256, dilations=(1, 14)) for _ in range(6)),
            DilatedBlock(256, 320, dilations=(1, 14)),
        )
        self.project_sixteenth = ConvBNReLU(320, 128, 1)
        self.project_eighth = ConvBNReLU(128, 128, 1)
        self.project_quarter = ConvBNReLU(48, 8, 1)
        self.mix_eighth = ConvBNReLU(128, 64, 3)
        self.mix_quarter = ConvBNReLU(64 + 8, 64, 3)
        self.classifier = nn.Conv2d(64, num_classes, 1)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        quarter = self.quarter(self.stem(images))
        eighth = self.eighth(quarter)
        sixteenth = self.project_sixteenth(self.sixteenth(eighth))
        fine = self.project_eighth(eighth) + resize(sixteenth, eighth.shape[-2:])
        fine = resize(self.mix_eighth(fine), quarter.shape[-2:])
        fine = self.mix_quarter(torch.cat((fine, self.project_quarter(quarter)), dim=1))
        return (resize(self.classifier(fine), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class DilatedBlock(nn.Module):
    """The paper's D block: RegNet's Y block with one dilation per half of its grouped 3x3.

    Source: Gao, https://arxiv.org/abs/2111.09957, figure 1; the Y block: Radosavovic et al.,
        https://arxiv.org/abs/2003.13678
    Differs: the first 1x1, whose output the paper splits, is written as one 1x1 for each half. This
        is the same function, and pruning need not keep the halves equal.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of 16 times the number of dilations.
        stride: Stride of the 3x3; at stride 2 the shortcut starts with average pooling.
        dilations: Dilations of the 3x3, one for each equal part of the channels.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *,
        stride: int = 1, dilations: tuple[int, ...] = (1,),
    ) -> None:  # fmt: skip
        super().__init__()
        width = out_channels // len(dilations)
        self.views = nn.ModuleList(
            nn.Sequential(
                ConvBNReLU(in_channels, width, 1),
                ConvBNReLU(width, width, 3, stride=stride, dilation=d, groups=width // GROUP_WIDTH),
            )
            for d in dilations
        )
        self.squeeze = SqueezeExcitation(out_channels, out_channels // 4)
        self.project = ConvBN(out_channels, out_channels, 1)
        self.shortcut = nn.Sequential()
        if stride == 2:
            self.shortcut.append(nn.AvgPool2d(2, ceil_mode=True))
        if stride == 2 or in_channels != out_channels:
            self.shortcut.append(ConvBN(in_channels, out_channels, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        views = torch.cat([view(features) for view in self.views], dim=1)
        projected: Tensor = self.project(self.squeeze(views))
        return torch.relu(projected + self.shortcut(features))


class SqueezeExcitation(nn.Module):
    """Reweights every channel by the global average of all channels.

    Source: Hu et al., https://arxiv.org/abs/1709.01507, equations 2 to 4.

    Args:
        channels: Channels of the input and of the output.
        squeezed_channels: Channels of the bottleneck.
    """

    def __init__(self, channels: int, squeezed_channels: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(channels, squeezed_channels, 1)
        self.excite = nn.Conv2d(squeezed_channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        squeezed = self.squeeze(F.adaptive_avg_pool2d(features, 1)).relu()
        weighted: Tensor = features * self.excite(squeezed).sigmoid()
        return weighted
