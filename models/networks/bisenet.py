"""BiSeNet: a shallow spatial path in parallel with a ResNet's context path."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.backbones import BackboneWeights, create_backbone
from models.blocks.layers import ConvBN, ConvBNReLU, FCNHead, resize
from models.network import SegmentationNetwork


class BiSeNet(SegmentationNetwork):
    """Spatial detail and refined context, both at 1/8, fused with channel attention.

    13.341 M parameters on ResNet-18 with 19 classes and no auxiliary heads. The published 5.8 M are
    for Xception39. For ResNet-18 the paper states 49.0 M, which does not match the layers that it
    describes. mmsegmentation's version has 13.28 M, because its fusion lacks one 1x1.

    Source: Yu et al., https://arxiv.org/abs/1808.00897; widths as in mmsegmentation's
        `bisenetv1_r18-d32`.

    Args:
        num_classes: Number of classes, at least 2.
        backbone: A segmentation-models-pytorch encoder, or "tu-" and a timm model.
        backbone_weights: None, "imagenet" or the path of a safetensors file.
        auxiliary: Whether train mode also returns the logits of two FCN heads, on the refined
            context at 1/8 and at 1/16.
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        backbone: str = "tu-resnet18",
        backbone_weights: BackboneWeights = None,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.spatial = nn.Sequential(
            ConvBNReLU(3, 64, 7, stride=2),
            ConvBNReLU(64, 64, 3, stride=2),
            ConvBNReLU(64, 64, 3, stride=2),
            ConvBNReLU(64, 128, 1),
        )
        self.backbone = create_backbone(backbone, backbone_weights)
        *_, sixteenth, last = list(self.backbone.out_channels)  # type: ignore[arg-type]
        self.pooled = ConvBNReLU(last, 128, 1)
        self.refine_last = AttentionRefinement(last, 128)
        self.refine_sixteenth = AttentionRefinement(sixteenth, 128)
        self.mix_sixteenth = ConvBNReLU(128, 128, 3)
        self.mix_eighth = ConvBNReLU(128, 128, 3)
        self.fusion = FeatureFusion(256, 256)
        self.head = FCNHead(256, 256, num_classes)
        self.auxiliary_heads = nn.ModuleList(
            FCNHead(128, 64, num_classes) for _ in range(2 if auxiliary else 0)
        )

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        size = images.shape[-2:]
        spatial = self.spatial(images)
        *_, sixteenth, last = self.backbone(images)

        context = self.refine_last(last) + self.pooled(F.adaptive_avg_pool2d(last, 1))
        coarse = self.mix_sixteenth(resize(context, sixteenth.shape[-2:]))
        context = self.refine_sixteenth(sixteenth) + coarse
        fine = self.mix_eighth(resize(context, spatial.shape[-2:]))

        outputs = [self.head(self.fusion(spatial, fine))]
        if with_auxiliary:
            heads = zip(self.auxiliary_heads, (fine, coarse), strict=False)
            outputs += [head(features) for head, features in heads]
        return tuple(resize(output, size) for output in outputs)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        heads = (self.head, *self.auxiliary_heads)
        return tuple(head[-1] for head in heads)

    def get_backbone(self) -> nn.Module:
        """See `SegmentationNetwork.get_backbone`."""
        return self.backbone


class AttentionRefinement(nn.Module):
    """A 3x3 convolution, then channel attention from the global average (figure 2b).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.mix = ConvBNReLU(in_channels, out_channels, 3)
        self.attention = ConvBN(out_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        mixed = self.mix(features)
        weights = self.attention(F.adaptive_avg_pool2d(mixed, 1)).sigmoid()
        refined: Tensor = mixed * weights
        return refined


class FeatureFusion(nn.Module):
    """Concatenates both paths, mixes them and emphasises channels (figure 2c).

    Args:
        in_channels: Channels of both paths together.
        out_channels: Channels of the output.
        kernel_size: Kernel size of the convolution that mixes them.
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel_size: int = 1) -> None:
        super().__init__()
        self.mix = ConvBNReLU(in_channels, out_channels, kernel_size)
        self.attention = nn.Sequential(
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 1, bias=False),
        )

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        """Fuse two maps of equal height and width to (N, out_channels, H, W)."""
        mixed = self.mix(torch.cat((spatial, context), dim=1))
        weights = self.attention(F.adaptive_avg_pool2d(mixed, 1)).sigmoid()
        fused: Tensor = mixed + mixed * weights
        return fused
