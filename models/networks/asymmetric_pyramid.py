"""Paper 4's road network: an asymmetric-convolution pyramid on a light encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from models.blocks.attention import CoordinateAttention
from models.blocks.backbones import BackboneWeights, create_backbone
from models.blocks.layers import ConvBNReLU, resize
from models.network import SegmentationNetwork

DILATIONS = (6, 12, 18)


class AsymmetricPyramid(SegmentationNetwork):
    """A ResNet-18 to 1/16, a pyramid of asymmetric dilated convolutions, and a decoder to 1/4.

    12.918 M parameters and 54.34 GMAC at CamVid's 720x960 with 11 classes, which is 108.7 GFLOPs;
    published 109.2 GFLOPs.

    Source: Li et al., "Real-time road scene segmentation based on knowledge distillation",
        https://doi.org/10.1145/3650400.3650470, of which only the abstract was available.
    Differs: the abstract names three modules and a cost; everything else is our reconstruction: we
        assume that its GFLOPs count a multiply-accumulate as two, because 109.2 GMAC at the stated
        63.7 frames/s would be 13.9 TFLOP/s, more than the 11.3 TFLOP/s of its GTX 1080 Ti; the
        encoder is a ResNet-18 with a dilated last stage: it is light, pretrained weights exist, and
        it leaves a quarter of the cost to the rest; the pyramid is that of FASSD-Net, which the
        paper cites (https://doi.org/10.1109/ICPR48806.2021.9413176), with the dilations of
        DeepLabv3 at 1/16, which it cites too (https://arxiv.org/abs/1706.05587); coordinate
        attention follows the pyramid, where rows and columns have the widest context; the decoder
        adds the features at 1/8 and at 1/4; the widths are chosen to meet the 109.2 GFLOPs.

    Args:
        num_classes: Number of classes, at least 2.
        backbone: Name of an encoder, see `models.blocks.backbones.create_backbone`.
        backbone_weights: None, "imagenet" or the path of a safetensors file.
        pyramid_channels: Channels of each of the pyramid's four views.
        decoder_channels: Channels of the pyramid's output and of the decoder.
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        backbone: str = "tu-resnet18",
        backbone_weights: BackboneWeights = None,
        pyramid_channels: int = 192,
        decoder_channels: int = 128,
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, backbone_weights, output_stride=16)
        quarter, eighth, *_, last = list(self.backbone.out_channels)[2:]  # type: ignore[arg-type]
        self.pyramid = DilatedPyramid(last, pyramid_channels, decoder_channels)
        self.attention = CoordinateAttention(decoder_channels)
        self.upsampling = nn.ModuleList(
            Upsampling(lateral, decoder_channels) for lateral in (eighth, quarter)
        )
        self.classifier = nn.Conv2d(decoder_channels, num_classes, 1)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        quarter, eighth, *_, last = self.backbone(images)[2:]
        features = self.attention(self.pyramid(last))
        for upsampling, lateral in zip(self.upsampling, (eighth, quarter), strict=True):
            features = upsampling(features, lateral)
        return (resize(self.classifier(features), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)

    def get_backbone(self) -> nn.Module:
        """See `SegmentationNetwork.get_backbone`."""
        return self.backbone


class DilatedPyramid(nn.Module):
    """A 1x1 view and dilated views (3x1, then 1x3), concatenated and projected.

    Source: Rosas-Arias et al., "FASSD-Net", https://doi.org/10.1109/ICPR48806.2021.9413176, its
        dilated asymmetric pyramidal fusion.

    Args:
        in_channels: Channels of the input.
        channels: Channels of each view.
        out_channels: Channels of the output.
        dilations: Dilation of each dilated view.
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        out_channels: int,
        dilations: Sequence[int] = DILATIONS,
    ) -> None:
        super().__init__()
        self.views = nn.ModuleList((ConvBNReLU(in_channels, channels, 1),))
        self.views.extend(
            nn.Sequential(
                ConvBNReLU(in_channels, channels, (3, 1), dilation=dilation),
                ConvBNReLU(channels, channels, (1, 3), dilation=dilation),
            )
            for dilation in dilations
        )
        self.project = ConvBNReLU(len(self.views) * channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        views = [view(features) for view in self.views]
        return self.project(torch.cat(views, dim=1))  # type: ignore[no-any-return]


class Upsampling(nn.Module):
    """Adds finer features of the encoder to coarser ones and blends them with a 3x3.

    Args:
        lateral_channels: Channels of the encoder's features.
        channels: Channels of the coarser features and of the output.
    """

    def __init__(self, lateral_channels: int, channels: int) -> None:
        super().__init__()
        self.lateral = ConvBNReLU(lateral_channels, channels, 1)
        self.blend = ConvBNReLU(channels, channels, 3)

    def forward(self, coarse: Tensor, lateral: Tensor) -> Tensor:
        """Fuse (N, channels, h, w) and (N, lateral_channels, H, W) to (N, channels, H, W)."""
        fused = resize(coarse, lateral.shape[-2:]) + self.lateral(lateral)
        return self.blend(fused)  # type: ignore[no-any-return]
