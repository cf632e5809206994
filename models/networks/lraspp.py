"""Lite R-ASPP on MobileNetV3-Large, from torchvision."""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.models import MobileNet_V3_Large_Weights
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

from models.blocks.backbones import BackboneWeights, load_backbone_weights
from models.network import SegmentationNetwork


class LRASPP(SegmentationNetwork):
    """torchvision's Lite R-ASPP, returning a tensor: 3.22 M parameters, published 3.21 M.

    Source: Howard et al., "Searching for MobileNetV3", https://arxiv.org/abs/1905.02244

    Args:
        num_classes: Number of classes, at least 2.
        backbone: Must be "mobilenet_v3_large".
        backbone_weights: None, "imagenet" or the path of a safetensors file in torchvision's
            naming.
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        backbone: str = "mobilenet_v3_large",
        backbone_weights: BackboneWeights = None,
    ) -> None:
        if backbone != "mobilenet_v3_large":
            raise ValueError(f"backbone must be 'mobilenet_v3_large', got {backbone!r}")
        super().__init__()
        download = backbone_weights == "imagenet"
        self.network = lraspp_mobilenet_v3_large(
            num_classes=num_classes,
            weights_backbone=MobileNet_V3_Large_Weights.IMAGENET1K_V2 if download else None,
        )
        trunk = nn.Module()
        trunk.features = self.network.backbone
        load_backbone_weights(trunk, backbone_weights)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        return (self.network(images)["out"],)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        head = self.network.classifier
        return head.low_classifier, head.high_classifier

    def get_backbone(self) -> nn.Module:
        """See `SegmentationNetwork.get_backbone`."""
        backbone: nn.Module = self.network.backbone
        return backbone
