"""The dual-branch network of paper 1: a detail branch and a dilated ResNet at half the size."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from models.blocks.attention import CoordinateAttention
from models.blocks.backbones import BackboneWeights, create_backbone
from models.blocks.layers import (
    ASPP,
    ConvBN,
    ConvBNReLU,
    FCNHead,
    resize,
    scale_channels,
)
from models.network import SegmentationNetwork


class DualBranch(SegmentationNetwork):
    """Details from the full image and semantics from the half-size one, fused at 1/8 and at 1/2.

    40.965 M parameters with 19 classes and 493.75 GMAC (convolutions) at 1024x2048; published
    40.96 M and 497 G (with BatchNorm and resizing).

    Source: Chen et al., "Lightweight dual-branch semantic segmentation algorithm based on model
        pruning and knowledge distillation", Intelligent Computers and Applications 16(2), 2026,
        section 1, https://doi.org/10.20169/j.issn.2095-2163.24040903
    Differs: the paper leaves the widths open; ours reproduce its number of parameters and Table 3.
        The dilated branches of the pyramid are 3x3 (dilation has no effect on a 1x1), and so is the
        classifier. The backbone, its stride, the width and the auxiliary head are options that we
        added.

    Args:
        num_classes: Number of classes, at least 2.
        backbone: A segmentation-models-pytorch encoder, or "tu-" and a timm model.
        backbone_weights: None, "imagenet" or the path of a safetensors file.
        width: Factor on the channels of all layers outside the backbone (rounded to multiples of 8)
            and of timm's ResNets; other backbones keep their own width.
        output_stride: Stride of the backbone relative to the half-size image: 8, 16 or 32.
        auxiliary: Whether train mode also returns the logits of an FCN head on the second-to-last
            stage.
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        backbone: str = "tu-resnet50c",
        backbone_weights: BackboneWeights = None,
        width: float = 1.0,
        output_stride: int = 8,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        c32, c64, c128, c256 = (scale_channels(c, width) for c in (32, 64, 128, 256))
        self.detail = nn.Sequential(
            ConvBNReLU(3, c32, 3, stride=2, dilation=2),
            ConvBNReLU(c32, c32, 3, stride=2, dilation=2),
            ConvBNReLU(c32, c64, 3, stride=2, dilation=2),
        )
        self.backbone = create_backbone(
            backbone, backbone_weights, output_stride=output_stride, width=width
        )
        channels: list[int] = list(self.backbone.out_channels)  # type: ignore[arg-type]
        self.aspp = ASPP(channels[5], c256, c128)
        self.context_fusion = Fusion(c128, channels[2], c256)
        self.attention = CoordinateAttention(c256)
        self.fusion_eighth = Fusion(c128, c64, c128)
        self.fusion_half = Fusion(c128, c256, c128)
        self.classifier = nn.Conv2d(c128, num_classes, 3, padding=1)
        self.auxiliary_head = FCNHead(channels[4], c256, num_classes) if auxiliary else None

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        size = images.shape[-2:]
        half = ((size[0] + 1) // 2, (size[1] + 1) // 2)
        features = self.backbone(resize(images, half))
        context = self.aspp(features[5])

        details = self.detail(images)
        both = self.attention(self.context_fusion(context, features[2]))
        eighth = self.fusion_eighth(context, details)
        fused = self.fusion_half(resize(eighth, half), resize(both, half))
        logits = self.classifier(resize(fused, size))
        if not with_auxiliary or self.auxiliary_head is None:
            return (logits,)
        return logits, resize(self.auxiliary_head(features[4]), size)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        if self.auxiliary_head is None:
            return (self.classifier,)
        return self.classifier, self.auxiliary_head[-1]

    def get_backbone(self) -> nn.Module:
        """See `SegmentationNetwork.get_backbone`."""
        return self.backbone


class Fusion(nn.Module):
    """Cascade feature fusion: a resized coarse map (3x3, dilation 2) plus a fine map (1x1), ReLU.

    Source: the cascade feature fusion of ICNet, https://arxiv.org/abs/1704.08545, section 3.3;
        paper 1 uses it for CFF-1 and CFF-2, and the same sum inside its MFFM.

    Args:
        coarse_channels: Channels of the coarse map.
        fine_channels: Channels of the fine map.
        out_channels: Channels of the output.
    """

    def __init__(self, coarse_channels: int, fine_channels: int, out_channels: int) -> None:
        super().__init__()
        self.coarse = ConvBN(coarse_channels, out_channels, 3, dilation=2)
        self.fine = ConvBN(fine_channels, out_channels, 1)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """Fuse (N, coarse_channels, h, w) and (N, fine_channels, H, W) to (N, out, H, W)."""
        resized = resize(coarse, fine.shape[-2:])
        return torch.relu(self.coarse(resized) + self.fine(fine))
