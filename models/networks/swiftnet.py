"""SwiftNet: a pretrained ResNet, pooled context, and a ladder-style decoder back to 1/4."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.backbones import BackboneWeights, create_backbone
from models.blocks.layers import BNReLUConv, resize
from models.network import SegmentationNetwork


class SwiftNet(SegmentationNetwork):
    """The single-scale SwiftNet; lateral connections start before the last ReLU of their stage.

    11.797 M parameters on ResNet-18 with 19 classes; published 11.8 M.

    Source: Orsic et al., https://arxiv.org/abs/1903.08469, section 3, and the authors' code,
        https://github.com/orsic/swiftnet

    Args:
        num_classes: Number of classes, at least 2.
        backbone: Name of the backbone, "tu-" and a ResNet of timm.
        backbone_weights: None, "imagenet" or the path of a safetensors file.
        channels: Channels of the decoder.
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        backbone: str = "tu-resnet18",
        backbone_weights: BackboneWeights = None,
        channels: int = 128,
    ) -> None:
        super().__init__()
        self.backbone = create_backbone(backbone, backbone_weights)
        stages = dict(self._get_stages())
        if not backbone.startswith("tu-") or "layer4" not in stages:
            raise ValueError(f"backbone must be 'tu-' and a ResNet of timm, got {backbone!r}")
        for name in _STAGES:
            _remove_last_relu(stages[name])
        *laterals, last = list(self.backbone.out_channels)[2:]  # type: ignore[arg-type]
        self.context = SpatialPyramid(last, channels)
        self.upsampling = nn.ModuleList(Upsampling(c, channels) for c in reversed(laterals))
        self.classifier = BNReLUConv(channels, num_classes, 1, bias=True)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        *laterals, last = self._run_backbone(images)
        features = self.context(last)
        for upsampling, lateral in zip(self.upsampling, reversed(laterals), strict=True):
            features = upsampling(features, lateral)
        return (resize(self.classifier(features), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier[-1],)

    def get_backbone(self) -> nn.Module:
        """See `SegmentationNetwork.get_backbone`."""
        return self.backbone

    def _run_backbone(self, images: Tensor) -> list[Tensor]:
        """Return the four stages' features, at 1/4 to 1/32, before their last ReLU."""
        features, unactivated = images, []
        for name, stage in self._get_stages():
            features = stage(features)
            if name in _STAGES:
                unactivated.append(features)
                features = torch.relu(features)
        return unactivated

    def _get_stages(self) -> list[tuple[str, nn.Module]]:
        """Return the stem's layers and the four stages, in the order that they run in."""
        resnet = getattr(self.backbone, "model", self.backbone)
        return list(resnet.named_children())


class SpatialPyramid(nn.Module):
    """Concatenates a map with its averages over 8, 4 and 2 rows of nearly square cells.

    Args:
        in_channels: Channels of the input.
        channels: Channels of the output; each average has a third of them.
        grids: Number of rows of each grid; that of columns follows from the map's shape.
    """

    def __init__(self, in_channels: int, channels: int, grids: tuple[int, ...] = (8, 4, 2)) -> None:
        super().__init__()
        self.grids = grids
        level_channels = channels // len(grids)
        self.squeeze = BNReLUConv(in_channels, channels, 1)
        self.levels = nn.ModuleList(BNReLUConv(channels, level_channels, 1) for _ in grids)
        self.fuse = BNReLUConv(channels + len(grids) * level_channels, channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H, W)."""
        height, width = features.shape[-2:]
        squeezed = self.squeeze(features)
        views = [squeezed]
        for rows, level in zip(self.grids, self.levels, strict=True):
            columns = max(1, round(rows * width / height))
            pooled = level(F.adaptive_avg_pool2d(squeezed, (rows, columns)))
            views.append(resize(pooled, (height, width)))
        fused: Tensor = self.fuse(torch.cat(views, dim=1))
        return fused


class Upsampling(nn.Module):
    """Adds a lateral connection to the coarser features and blends with 3x3.

    Args:
        lateral_channels: Channels of the lateral connection.
        channels: Channels of the decoder.
    """

    def __init__(self, lateral_channels: int, channels: int) -> None:
        super().__init__()
        self.lateral = BNReLUConv(lateral_channels, channels, 1)
        self.blend = BNReLUConv(channels, channels, 3)

    def forward(self, coarse: Tensor, lateral: Tensor) -> Tensor:
        """Fuse (N, channels, h, w) and (N, lateral_channels, H, W) to (N, channels, H, W)."""
        blended: Tensor = self.blend(resize(coarse, lateral.shape[-2:]) + self.lateral(lateral))
        return blended


_STAGES = ("layer1", "layer2", "layer3", "layer4")


def _remove_last_relu(stage: nn.Module) -> None:
    """Remove the last ReLU of a stage of timm's ResNet; the caller applies it."""
    *_, block = stage.children()
    block.register_module("act3" if hasattr(block, "act3") else "act2", nn.Identity())
