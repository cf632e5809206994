"""ENet: early downsampling, bottlenecks, and a small decoder with unpooling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.conv_pool_downsampling import ConvPoolDownsampling
from models.blocks.layers import ConvBN, ConvBNPReLU
from models.blocks.max_unpooling import Pooled, max_pool, max_unpool
from models.network import SegmentationNetwork


class ENet(SegmentationNetwork):
    """ENet: an encoder down to 1/8 and a decoder of five bottlenecks.

    0.364 M parameters with 19 classes; published 0.37 M, and 0.36 M in comparisons by others.

    Source: Paszke et al., "ENet: a deep neural network architecture for real-time semantic
        segmentation", https://arxiv.org/abs/1606.02147, table 1; details that it leaves open from
        the authors' code, https://github.com/e-lab/ENet-training: no activation between the last
        BatchNorm of a bottleneck and the sum, and a 2x2 transposed convolution as the classifier.
    Differs: PReLUs in the decoder too, as in the paper (the authors' code has ReLUs there). At odd
        sizes the maps are rounded up, and the logits are cropped.

    Args:
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.initial = ConvPoolDownsampling(3, 16, nn.PReLU(16))
        self.down1 = DownsamplingBottleneck(16, 64, dropout=0.01)
        self.stage1 = nn.Sequential(*(Bottleneck(64, dropout=0.01) for _ in range(4)))
        self.down2 = DownsamplingBottleneck(64, 128, dropout=0.1)
        self.stage2 = _make_dilated_stage(128)
        self.stage3 = _make_dilated_stage(128)
        self.up4 = UpsamplingBottleneck(128, 64)
        self.stage4 = nn.Sequential(Bottleneck(64), Bottleneck(64))
        self.up5 = UpsamplingBottleneck(64, 16)
        self.stage5 = Bottleneck(16)
        self.classifier = nn.ConvTranspose2d(16, num_classes, 2, stride=2)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        height, width = images.shape[-2:]
        features, half = self.down1(self.initial(images))
        features, quarter = self.down2(self.stage1(features))
        features = self.stage3(self.stage2(features))
        features = self.stage4(self.up4(features, quarter))
        features = self.stage5(self.up5(features, half))
        return (self.classifier(features)[..., :height, :width],)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class Bottleneck(nn.Module):
    """1x1 to a quarter of the channels, a convolution, 1x1 back; dropout, sum, PReLU.

    Source: https://arxiv.org/abs/1606.02147, figure 2b.

    Args:
        channels: Channels of the input and of the output.
        dilation: Dilation of the 3x3 convolution.
        asymmetric: Whether 5x1 and 1x5 convolutions replace the 3x3 convolution.
        dropout: Dropout probability of a channel.
    """

    def __init__(
        self, channels: int, *, dilation: int = 1, asymmetric: bool = False, dropout: float = 0.1
    ) -> None:
        super().__init__()
        inner = channels // 4
        if asymmetric:
            column = nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False)
            middle = nn.Sequential(column, *ConvBNPReLU(inner, inner, (1, 5)))
        else:
            middle = ConvBNPReLU(inner, inner, 3, dilation=dilation)
        self.branch = nn.Sequential(
            ConvBNPReLU(channels, inner, 1),
            middle,
            ConvBN(inner, channels, 1),
            nn.Dropout2d(dropout),
        )
        self.activation = nn.PReLU(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        return self.activation(features + self.branch(features))  # type: ignore[no-any-return]


class DownsamplingBottleneck(nn.Module):
    """A bottleneck of stride 2; the shortcut is max-pooled and padded with zero channels.

    Source: https://arxiv.org/abs/1606.02147, section 4.
    Differs: the last 1x1 convolution is split in two, one for the channels with a shortcut and one
        for the others. The result is the same, and no padding is needed.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, more than those of the input.
        dropout: Dropout probability of a channel.
    """

    def __init__(self, in_channels: int, out_channels: int, *, dropout: float) -> None:
        super().__init__()
        inner = out_channels // 4
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, inner, 2, stride=2, bias=False),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            ConvBNPReLU(inner, inner, 3),
        )
        self.to_pooled = nn.Sequential(ConvBN(inner, in_channels, 1), nn.Dropout2d(dropout))
        self.to_others = nn.Sequential(
            ConvBN(inner, out_channels - in_channels, 1), nn.Dropout2d(dropout)
        )
        self.activation = nn.PReLU(out_channels)

    def forward(self, features: Tensor) -> tuple[Tensor, Pooled]:
        """Map (N, in_channels, H, W) to (N, out_channels, ceil(H / 2), ceil(W / 2)).

        Returns:
            The features, and the result of the pooling for the later unpooling.
        """
        pooled = max_pool(features)
        height, width = pooled.size
        branch = self.branch(F.pad(features, (0, width % 2, 0, height % 2)))
        parts = (pooled.maxima + self.to_pooled(branch), self.to_others(branch))
        return self.activation(torch.cat(parts, dim=1)), pooled


class UpsamplingBottleneck(nn.Module):
    """A bottleneck with a transposed convolution of stride 2; the shortcut is unpooled.

    Source: https://arxiv.org/abs/1606.02147, section 4.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, those of the map that was pooled.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        inner = out_channels // 4
        self.main = ConvBN(in_channels, out_channels, 1)
        self.squeeze = ConvBNPReLU(in_channels, inner, 1)
        self.upsample = nn.ConvTranspose2d(inner, inner, 3, stride=2, padding=1, bias=False)
        self.expand = nn.Sequential(
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            ConvBN(inner, out_channels, 1),
            nn.Dropout2d(0.1),
        )
        self.activation = nn.PReLU(out_channels)

    def forward(self, features: Tensor, pooled: Pooled) -> Tensor:
        """Map (N, in_channels, h, w) to (N, out_channels, H, W), the size before the pooling."""
        unpooled = max_unpool(self.main(features), pooled)
        upsampled = self.upsample(self.squeeze(features), output_size=pooled.size)
        return self.activation(unpooled + self.expand(upsampled))  # type: ignore[no-any-return]


def _make_dilated_stage(channels: int) -> nn.Sequential:
    return nn.Sequential(
        Bottleneck(channels),
        Bottleneck(channels, dilation=2),
        Bottleneck(channels, asymmetric=True),
        Bottleneck(channels, dilation=4),
        Bottleneck(channels),
        Bottleneck(channels, dilation=8),
        Bottleneck(channels, asymmetric=True),
        Bottleneck(channels, dilation=16),
    )
