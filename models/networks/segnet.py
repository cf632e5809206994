"""SegNet: the convolutions of VGG-16, mirrored in a decoder with max-unpooling."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from models.blocks.max_unpooling import Pooled, max_pool, max_unpool
from models.network import SegmentationNetwork


class SegNet(SegmentationNetwork):
    """Thirteen convolutions down to 1/32 and thirteen up; the decoder unpools by indices.

    29.454 M parameters with 19 classes; published 29.5 M.

    Source: Badrinarayanan et al., "SegNet: a deep convolutional encoder-decoder architecture for
        image segmentation", https://arxiv.org/abs/1511.00561, section 3.

    Args:
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(
            [
                _make_stage(3, 64, 64),
                _make_stage(64, 128, 128),
                _make_stage(128, 256, 256, 256),
                _make_stage(256, 512, 512, 512),
                _make_stage(512, 512, 512, 512),
            ]
        )
        self.decoder = nn.ModuleList(
            [
                _make_stage(512, 512, 512, 512),
                _make_stage(512, 512, 512, 256),
                _make_stage(256, 256, 256, 128),
                _make_stage(128, 128, 64),
                _make_stage(64, 64),
            ]
        )
        self.classifier = nn.Conv2d(64, num_classes, 3, padding=1)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        features = images
        pools: list[Pooled] = []
        for stage in self.encoder:
            pools.append(max_pool(stage(features)))
            features = pools[-1].maxima
        for stage, pooled in zip(self.decoder, reversed(pools), strict=True):
            features = stage(max_unpool(features, pooled))
        return (self.classifier(features),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


def _make_stage(*channels: int) -> nn.Sequential:
    """Chain 3x3 convolutions, each with a bias, BatchNorm and ReLU, through these widths."""
    layers: list[nn.Module] = []
    for i, o in pairwise(channels):
        layers += [nn.Conv2d(i, o, 3, padding=1), nn.BatchNorm2d(o), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)
