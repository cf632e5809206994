"""STDC1-Seg: short-term dense concatenation, and a decoder with attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.layers import ConvBN, ConvBNReLU, FCNHead, resize
from models.network import SegmentationNetwork
from models.networks.bisenet import FeatureFusion

STAGE_CHANNELS = (256, 512, 1024)


class STDC(SegmentationNetwork):
    """STDC1-Seg: context from 1/32 and 1/16, fused with the encoder's own features at 1/8.

    7.799 M parameters with 19 classes and no auxiliary heads (8.097 M with them). The paper counts
    only the encoder, as a classifier (8.44 M, of which 5.32 M remain here), and leaves the
    decoder's widths open. Ours are those of a public reimplementation, which has 7.79 M. The
    authors' code has 8.28 M, because it refines by 3x3 convolutions to 128 channels.

    Source: Fan et al., https://arxiv.org/abs/2104.13188, table 1 and figures 3 to 5; attention and
        fusion as in BiSeNet's paper, https://arxiv.org/abs/1808.00897, figure 2; widths of
        https://github.com/zh320/realtime-semantic-segmentation-pytorch
    Differs: no detail head. The paper also trains the features at 1/8 on class boundaries; here
        every loss is on the classes.

    Args:
        num_classes: Number of classes, at least 2.
        auxiliary: Whether train mode also returns the logits of two heads, on the context at 1/16
            and at 1/32.
    """

    def __init__(self, num_classes: int = 19, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.encoder = STDCEncoder()
        eighth, sixteenth, last = STAGE_CHANNELS
        self.refine_last = ChannelAttention(last)
        self.project_last = ConvBNReLU(last, 256, 1)
        self.refine_sixteenth = ChannelAttention(sixteenth)
        self.project_sixteenth = ConvBNReLU(sixteenth, 256, 1)
        self.fusion = FeatureFusion(eighth + 256, 128, kernel_size=3)
        self.head = FCNHead(128, 128, num_classes)
        self.auxiliary_heads = nn.ModuleList(
            FCNHead(256, 64, num_classes) for _ in range(2 if auxiliary else 0)
        )

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        eighth, sixteenth, last = self.encoder(images)
        context = self.refine_last(last) + F.adaptive_avg_pool2d(last, 1)
        coarse = self.project_last(context)
        refined = self.project_sixteenth(self.refine_sixteenth(sixteenth))
        fine = refined + resize(coarse, sixteenth.shape[-2:])

        outputs = [self.head(self.fusion(eighth, resize(fine, eighth.shape[-2:])))]
        if with_auxiliary:
            heads = zip(self.auxiliary_heads, (fine, coarse), strict=False)
            outputs += [head(features) for head, features in heads]
        return tuple(resize(output, images.shape[-2:]) for output in outputs)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        heads = (self.head, *self.auxiliary_heads)
        return tuple(head[-1] for head in heads)


class STDCEncoder(nn.Module):
    """STDC1, also known as STDCNet813: stride 32, two modules in each of the last three stages.

    Source: Fan et al., https://arxiv.org/abs/2104.13188, table 1.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBNReLU(3, 32, 3, stride=2), ConvBNReLU(32, 64, 3, stride=2))
        self.stages = nn.ModuleList()
        in_channels = 64
        for channels in STAGE_CHANNELS:
            self.stages.append(
                nn.Sequential(
                    ShortTermDenseConcat(in_channels, channels, stride=2),
                    ShortTermDenseConcat(channels, channels),
                )
            )
            in_channels = channels

    def forward(self, images: Tensor) -> list[Tensor]:
        """Map (N, 3, H, W) to features at 1/8, 1/16 and 1/32."""
        features = [self.stem(images)]
        for stage in self.stages:
            features.append(stage(features[-1]))
        return features[1:]


class ShortTermDenseConcat(nn.Module):
    """Four convolutions in a row, each half as wide, whose outputs are concatenated (figure 3).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output, a multiple of 8.
        stride: Stride, 1 or 2; stride 2 adds a depthwise convolution and, for the first output,
            average pooling.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 1) -> None:
        super().__init__()
        half, quarter, eighth = out_channels // 2, out_channels // 4, out_channels // 8
        self.reduce = ConvBNReLU(in_channels, half, 1)
        self.is_strided = stride == 2
        self.down = (
            ConvBN(half, half, 3, stride=2, groups=half) if self.is_strided else nn.Identity()
        )
        self.convs = nn.ModuleList(
            (
                ConvBNReLU(half, quarter, 3),
                ConvBNReLU(quarter, eighth, 3),
                ConvBNReLU(eighth, eighth, 3),
            )
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        reduced = self.reduce(features)
        outputs = [F.avg_pool2d(reduced, 3, 2, 1) if self.is_strided else reduced]
        features = self.down(reduced)
        for conv in self.convs:
            features = conv(features)
            outputs.append(features)
        return torch.cat(outputs, dim=1)


class ChannelAttention(nn.Module):
    """Reweights every channel by the global averages of all channels (BiSeNet's ARM, figure 2b).

    Args:
        channels: Channels of the input and of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.attention = ConvBN(channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, channels, H, W) to the same shape."""
        weights: Tensor = self.attention(F.adaptive_avg_pool2d(features, 1)).sigmoid()
        return features * weights
