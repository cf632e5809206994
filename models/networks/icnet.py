"""ICNet: one image at three sizes, with deeper layers for the smaller sizes."""

from __future__ import annotations

from torch import Tensor, nn

from models.blocks.backbones import BackboneWeights, create_backbone
from models.blocks.layers import ConvBNReLU, resize
from models.network import SegmentationNetwork
from models.networks.dual_branch import Fusion
from models.networks.pspnet import PyramidPooling


class ICNet(SegmentationNetwork):
    """Half of a dilated ResNet at 1/2 size, the rest at 1/4, and three convolutions at full size.

    47.528 M parameters on ResNet-50 with 19 classes and no auxiliary heads; paper 1 states 47.53 M,
    the number of mmsegmentation's implementation. The 26.5 M of the network's own paper are for a
    version whose kernels were halved by pruning.

    Source: Zhao et al., https://arxiv.org/abs/1704.08545; widths as in mmsegmentation's
        `icnet_r50-d8`.

    Args:
        num_classes: Number of classes, at least 2.
        backbone: A ResNet of segmentation-models-pytorch, or "tu-" and a ResNet of timm.
        backbone_weights: None, "imagenet" or the path of a safetensors file.
        auxiliary: Whether train mode also returns the logits of the cascade label guidance: 1x1
            classifiers on the coarse input of both fusions.
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        backbone: str = "tu-resnet50c",
        backbone_weights: BackboneWeights = None,
        auxiliary: bool = False,
    ) -> None:
        super().__init__()
        self.full_branch = nn.Sequential(
            ConvBNReLU(3, 32, 3, stride=2),
            ConvBNReLU(32, 32, 3, stride=2),
            ConvBNReLU(32, 64, 3, stride=2),
        )
        self.backbone = create_backbone(backbone, backbone_weights, output_stride=8)
        if "layer3" not in dict(self._get_stages()):
            raise ValueError(
                f"backbone must be a ResNet, because it is run in two parts; got {backbone!r}"
            )
        channels: list[int] = list(self.backbone.out_channels)  # type: ignore[arg-type]
        middle, last = channels[3], channels[5]
        self.half_branch = ConvBNReLU(middle, 256, 1)
        self.quarter_branch = nn.Sequential(
            PyramidPooling(last, last // 4),
            ConvBNReLU(2 * last, last // 4, 3),
            ConvBNReLU(last // 4, 256, 1),
        )
        self.fusion_half = Fusion(256, 256, 128)
        self.fusion_full = Fusion(128, 64, 128)
        self.head = nn.Sequential(ConvBNReLU(128, 128, 3), nn.Conv2d(128, num_classes, 1))
        widths = (256, 128) if auxiliary else ()
        self.guidance = nn.ModuleList(nn.Conv2d(c, num_classes, 1) for c in widths)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        size = images.shape[-2:]
        middle, last = self._run_backbone(_halve(images))
        quarter = self.quarter_branch(last)
        half = self.fusion_half(quarter, self.half_branch(middle))
        outputs = [self.head(self.fusion_full(half, self.full_branch(images)))]
        if with_auxiliary:
            guided = zip(self.guidance, (quarter, half), strict=False)
            outputs += [classifier(features) for classifier, features in guided]
        return tuple(resize(output, size) for output in outputs)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return self.head[-1], *self.guidance

    def get_backbone(self) -> nn.Module:
        """See `SegmentationNetwork.get_backbone`."""
        return self.backbone

    def _run_backbone(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the output of layer2, and that of layer4 for the halved output of layer2."""
        features = middle = images
        for name, stage in self._get_stages():
            if name == "layer3":
                middle, features = features, _halve(features)
            features = stage(features)
        return middle, features

    def _get_stages(self) -> list[tuple[str, nn.Module]]:
        """Return the stem's layers and the four stages, in the order that they run in."""
        resnet = getattr(self.backbone, "model", self.backbone)
        return list(resnet.named_children())


def _halve(features: Tensor) -> Tensor:
    height, width = features.shape[-2:]
    return resize(features, ((height + 1) // 2, (width + 1) // 2))
