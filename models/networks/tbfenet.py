"""TBFENet of paper 3: an encoder-decoder for semantics and a shallow branch for details."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from models.blocks.attention import CoordinateAttention, EfficientChannelAttention, SpatialAttention
from models.blocks.channel_layers import ChannelShuffle
from models.blocks.layers import BNPReLU, ConvBNPReLU, resize
from models.network import SegmentationNetwork

DILATIONS = ((1,), (1, 2), (1, 2, 5), (2, 5, 7, 9), (2, 5, 7, 9, 17))
FUSIONS = ("add", "attention")


class TBFENet(SegmentationNetwork):
    """Semantics from asymmetric residual blocks, details from a shallow branch, fused at 1/2.

    0.9051 M parameters with 19 classes, 28.65 GMAC at 512x1024 and 9.44 GMAC at 360x480; published
    0.9051 M and, for CamVid, 9.3 G.

    Source: Sun et al., "Lightweight image segmentation algorithm based on two-branch feature
        extraction", TBFENet, sections 1.1 to 1.6 and figure 6.
    Differs: the paper leaves the widths of the stages and the form of the dilated convolutions
        open; ours reproduce the numbers of parameters in its Table 1. The grouped 3x3 that widens
        the spatial branch (two outputs for each input) is written as two depthwise ones,
        concatenated.

    Args:
        num_classes: Number of classes, at least 2.
        channel_attention: Whether the semantic branch has ECA (Table 1: CA).
        spatial_branch: Whether there is a spatial branch (Table 1: SDI).
        spatial_attention: Whether that branch ends with spatial attention (Table 1: SA).
        fusion: How the branches are joined (Table 1: Add and FFM).
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        channel_attention: bool = True,
        spatial_branch: bool = True,
        spatial_attention: bool = True,
        fusion: Literal["add", "attention"] = "attention",
    ) -> None:
        super().__init__()
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {FUSIONS}, got {fusion!r}")
        self.initial = nn.Sequential(
            ConvBNPReLU(3, 32, 3, stride=2),
            ConvBNPReLU(32, 32, 3),
            ConvBNPReLU(32, 32, 3),
            _create_attention(32, channel_attention),
        )
        self.semantic = SemanticBranch(channel_attention)
        self.spatial = SpatialBranch(spatial_attention) if spatial_branch else None
        is_fused = spatial_branch and fusion == "attention"
        self.fusion = nn.Sequential(
            *([nn.BatchNorm2d(64), CoordinateAttention(64)] if is_fused else [])
        )
        self.classifier = nn.ConvTranspose2d(64, num_classes, 2, stride=2)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        features = self.initial(images)
        fused = self.semantic(features)
        if self.spatial is not None:
            fused = fused + self.spatial(features)
        logits = self.classifier(self.fusion(fused))
        return (resize(logits, images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class SemanticBranch(nn.Module):
    """From 1/2 down to 1/8 and back: five stages of asymmetric residual blocks.

    Args:
        channel_attention: Whether stages and blocks have ECA.
    """

    def __init__(self, channel_attention: bool) -> None:
        super().__init__()
        self.stage1, self.stage2, self.stage3, self.stage4, self.stage5 = (
            nn.Sequential(
                *(AsymmetricResidual(channels, d, channel_attention) for d in dilations),
                _create_attention(channels, channel_attention),
            )
            for channels, dilations in zip((32, 32, 192, 192, 64), DILATIONS, strict=True)
        )
        self.down1 = Downsampling(32, 32)
        self.down2 = Downsampling(32, 192)
        self.up1 = Upsampling(192, 192)
        self.up2 = Upsampling(192, 64)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, 32, H, W) to (N, 64, H, W)."""
        half = self.stage1(features)
        quarter = self.stage2(self.down1(half))
        eighth = self.stage3(self.down2(quarter))
        quarter = self.stage4(self.up1(eighth, quarter.shape[-2:]))
        return self.stage5(self.up2(quarter, half.shape[-2:]))  # type: ignore[no-any-return]


class AsymmetricResidual(nn.Module):
    """ARM: two rounds in which an undilated and a dilated branch exchange features.

    Source: equations 1 to 6.

    Args:
        channels: Channels of the input and of the output.
        dilation: Dilation of the dilated branch.
        channel_attention: Whether ECA follows the first round and the expansion.
    """

    def __init__(self, channels: int, dilation: int, channel_attention: bool) -> None:
        super().__init__()
        narrow = channels // 2
        self.reduce = ConvBNPReLU(channels, narrow, 1)
        self.round1 = Exchange(narrow, dilation)
        self.plain = nn.Sequential(BNPReLU(narrow), _create_attention(narrow, channel_attention))
        self.dilated = nn.Sequential(BNPReLU(narrow), _create_attention(narrow, channel_attention))
        self.round2 = Exchange(narrow, dilation)
        self.expand = nn.Sequential(
            BNPReLU(narrow),
            nn.Conv2d(narrow, channels, 1, bias=False),
            _create_attention(channels, channel_attention),
        )
        self.shuffle = ChannelShuffle(channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        reduced = self.reduce(features)
        plain, dilated = self.round1(reduced, reduced)
        plain, dilated = self.round2(self.plain(plain), self.dilated(dilated))
        return self.shuffle(features + self.expand(plain + dilated))  # type: ignore[no-any-return]


class Exchange(nn.Module):
    """One round: sums vertical convolutions of both branches, then applies horizontal ones to each.

    Source: equations 2 and 3, and again 4 and 5.

    Args:
        channels: Channels of the inputs and of the outputs.
        dilation: Dilation of the dilated branch.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.vertical = _create_depthwise(channels, (3, 1))
        self.dilated_vertical = _create_separable(channels, (3, 1), dilation)
        self.horizontal = _create_depthwise(channels, (1, 3))
        self.dilated_horizontal = _create_separable(channels, (1, 3), dilation)

    def forward(self, plain: Tensor, dilated: Tensor) -> tuple[Tensor, Tensor]:
        """Map two (N, channels, H, W) to two of the same shape."""
        both = self.vertical(plain) + self.dilated_vertical(dilated)
        return self.horizontal(both), self.dilated_horizontal(both)


class Downsampling(nn.Module):
    """Halves the size: a 3x3 of stride 2, concatenated with max-pooling if channels are added.

    Source: section 1.3 and figure 3; ERFNet, https://ieeexplore.ieee.org/document/8063438

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        pooled = in_channels if out_channels > in_channels else 0
        self.conv = nn.Conv2d(in_channels, out_channels - pooled, 3, 2, padding=1, bias=False)
        self.pool = nn.MaxPool2d(2, ceil_mode=True) if pooled else None
        self.normalize = BNPReLU(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / 2, W / 2), rounded up."""
        halved = self.conv(features)
        if self.pool is not None:
            halved = torch.cat((halved, self.pool(features)), dim=1)
        return self.normalize(halved)  # type: ignore[no-any-return]


class Upsampling(nn.Module):
    """Doubles the size of a map by a transposed convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
        self.normalize = BNPReLU(out_channels)

    def forward(self, features: Tensor, size: tuple[int, int]) -> Tensor:
        """Map (N, in_channels, h, w) to (N, out_channels, *size)."""
        return self.normalize(resize(self.conv(features), size))  # type: ignore[no-any-return]


class SpatialBranch(nn.Module):
    """Details at 1/2: a feature extraction module (SFM), then spatial attention.

    Source: section 1.4 and figure 4.

    Args:
        spatial_attention: Whether spatial attention follows.
    """

    def __init__(self, spatial_attention: bool) -> None:
        super().__init__()
        self.conv = ConvBNPReLU(32, 64, 3)
        self.widen = nn.ModuleList(ConvBNPReLU(64, 64, 3, groups=64) for _ in range(2))
        self.narrow = nn.Sequential(
            ConvBNPReLU(128, 128, 3, groups=128),
            ConvBNPReLU(128, 64, 1),
            *([SpatialAttention(64)] if spatial_attention else []),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, 32, H, W) to (N, 64, H, W)."""
        details = self.conv(features)
        wide = torch.cat([conv(details) for conv in self.widen], dim=1)
        return self.narrow(wide)  # type: ignore[no-any-return]


def _create_attention(channels: int, channel_attention: bool) -> nn.Module:
    return EfficientChannelAttention(channels) if channel_attention else nn.Identity()


def _create_depthwise(channels: int, kernel_size: tuple[int, int], dilation: int = 1) -> nn.Conv2d:
    padding = (dilation * (kernel_size[0] // 2), dilation * (kernel_size[1] // 2))
    return nn.Conv2d(
        channels, channels, kernel_size, 1, padding, dilation, groups=channels, bias=False
    )


def _create_separable(channels: int, kernel_size: tuple[int, int], dilation: int) -> nn.Sequential:
    return nn.Sequential(
        _create_depthwise(channels, kernel_size, dilation),
        nn.Conv2d(channels, channels, 1, bias=False),
    )
