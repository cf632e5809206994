"""DeepLabV3+ from segmentation-models-pytorch, for images of any size."""

from __future__ import annotations

from collections.abc import Sequence

import segmentation_models_pytorch as smp
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.backbones import BackboneWeights, get_library_weights, load_backbone_weights
from models.network import SegmentationNetwork


class DeepLabV3Plus(SegmentationNetwork):
    """The teacher: segmentation-models-pytorch's DeepLabV3+ on any of its encoders.

    Source: Chen et al., https://arxiv.org/abs/1802.02611
    Differs: images are padded at their right and lower edge to a multiple of the output stride,
        by repeating the edge, and the logits are cropped back.

    Args:
        num_classes: Number of classes, at least 2.
        backbone: A segmentation-models-pytorch encoder, or "tu-" and a timm model.
        backbone_weights: None, "imagenet" or the path of a safetensors file.
        output_stride: Stride of the encoder, 8 or 16.
        decoder_channels: Channels of the pyramid and of the decoder.
        dilations: The three dilations of the pyramid; None: the paper's, which are 6, 12, 18 at
            stride 16 and twice that at stride 8.
        dropout: Dropout probability after the pyramid, in [0, 1).
    """

    def __init__(
        self,
        num_classes: int = 19,
        *,
        backbone: str = "resnet50",
        backbone_weights: BackboneWeights = None,
        output_stride: int = 16,
        decoder_channels: int = 256,
        dilations: Sequence[int] | None = None,
        dropout: float = 0.1,
    ) -> None:
        if output_stride not in (8, 16):
            raise ValueError(f"output_stride must be 8 or 16, got {output_stride!r}")
        if dilations is None:
            dilations = (6, 12, 18) if output_stride == 16 else (12, 24, 36)
        if len(dilations) != 3:
            raise ValueError(f"dilations must be three numbers, got {dilations!r}")
        super().__init__()
        self.network = smp.DeepLabV3Plus(
            encoder_name=backbone,
            encoder_weights=get_library_weights(backbone, backbone_weights),
            encoder_output_stride=output_stride,
            decoder_channels=decoder_channels,
            decoder_atrous_rates=tuple(dilations),
            decoder_aspp_dropout=dropout,
            classes=num_classes,
        )
        load_backbone_weights(self.network.encoder, backbone_weights)
        self.output_stride = output_stride

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        height, width = images.shape[-2:]
        bottom, right = -height % self.output_stride, -width % self.output_stride
        if bottom or right:
            images = F.pad(images, (0, right, 0, bottom), mode="replicate")
        logits = self.network.segmentation_head(self.network.decoder(self.network.encoder(images)))
        return (logits[..., :height, :width],)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.network.segmentation_head[0],)

    def get_backbone(self) -> nn.Module:
        """See `SegmentationNetwork.get_backbone`."""
        encoder: nn.Module = self.network.encoder
        return encoder
