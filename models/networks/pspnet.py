"""PSPNet: a dilated ResNet at stride 8, then pyramid pooling."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.backbones import BackboneWeights, create_backbone
from models.blocks.layers import ConvBNReLU, FCNHead, resize
from models.network import SegmentationNetwork


class PSPNet(SegmentationNetwork):
    """Concatenates the features of a dilated ResNet with context at four scales.

    12.622 M parameters on ResNet-18 and 65.584 M on ResNet-101 with 19 classes and no auxiliary
    head (12.771 M and 67.948 M with it); published 12.6 to 13.1 M and 65.6 M or more, depending on
    the stem and on the heads that are counted.

    Source: Zhao et al., https://arxiv.org/abs/1612.01105; widths and auxiliary head from
        mmsegmentation's `pspnet_r18-d8` and `pspnet_r101-d8`.
    Differs: the stem is timm's single 7x7; mmsegmentation has three 3x3, which add 0.02 M (choose
        the backbone "tu-resnet101c" for these with ResNet-101).

    Args:
        num_classes: Number of classes, at least 2.
        backbone: A segmentation-models-pytorch encoder, or "tu-" and a timm model.
        backbone_weights: None, "imagenet" or the path of a safetensors file.
        output_stride: Stride of the backbone: 8, 16 or 32.
        auxiliary: Whether train mode also returns the logits of an FCN head on the second-to-last
            stage.
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        backbone: str = "tu-resnet18",
        backbone_weights: BackboneWeights = None,
        output_stride: int = 8,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, backbone_weights, output_stride=output_stride)
        *_, before_last, last = list(self.backbone.out_channels)  # type: ignore[arg-type]
        self.pyramid = PyramidPooling(last, last // 4)
        self.head = FCNHead(2 * last, last // 4, num_classes)
        self.auxiliary_head = (
            FCNHead(before_last, before_last // 4, num_classes) if auxiliary else None
        )

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        size = images.shape[-2:]
        *_, before_last, last = self.backbone(images)
        logits = resize(self.head(self.pyramid(last)), size)
        if not with_auxiliary or self.auxiliary_head is None:
            return (logits,)
        return logits, resize(self.auxiliary_head(before_last), size)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        if self.auxiliary_head is None:
            return (self.head[-1],)
        return self.head[-1], self.auxiliary_head[-1]

    def get_backbone(self) -> nn.Module:
        """See `SegmentationNetwork.get_backbone`."""
        return self.backbone


class PyramidPooling(nn.Module):
    """Concatenates a map with its averages over several grids, each projected by a 1x1.

    Source: Zhao et al., https://arxiv.org/abs/1612.01105, section 3.2.

    Args:
        in_channels: Channels of the map.
        branch_channels: Channels of each average.
        grids: Number of rows, and of columns, of each grid.
    """

    def __init__(
        self, in_channels: int, branch_channels: int, grids: Sequence[int] = (1, 2, 3, 6)
    ) -> None:
        super().__init__()
        self.grids = tuple(grids)
        self.branches = nn.ModuleList(ConvBNReLU(in_channels, branch_channels, 1) for _ in grids)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, in_channels + grids x branch_channels, H, W)."""
        size = features.shape[-2:]
        averages = [
            resize(branch(F.adaptive_avg_pool2d(features, grid)), size)
            for grid, branch in zip(self.grids, self.branches, strict=True)
        ]
        return torch.cat([features, *averages], dim=1)
