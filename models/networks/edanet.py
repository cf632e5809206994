"""EDANet: densely connected modules of asymmetric convolutions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.conv_pool_downsampling import ConvPoolDownsampling
from models.blocks.layers import resize
from models.network import SegmentationNetwork

_GROWTH = 40


class EDANet(SegmentationNetwork):
    """Efficient dense modules of asymmetric convolutions at 1/8 of the size, without a decoder.

    0.689 M parameters with 19 classes, as in the authors' code; published 0.68 M (truncated).

    Source: Lo et al., "Efficient dense modules of asymmetric convolution for real-time semantic
        segmentation", https://arxiv.org/abs/1809.06323, section 3; details that it leaves open
        (dilations, biases) from the authors' code, https://github.com/shaoyuanlo/EDANet, as ported
        in pytorchcv 0.0.74.

    Args:
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            ConvPoolDownsampling(3, 15, nn.ReLU(inplace=True), bias=True),
            ConvPoolDownsampling(15, 60, nn.ReLU(inplace=True), bias=True),
            *_make_block(60, (1, 1, 1, 2, 2)),
            nn.Conv2d(260, 130, 3, stride=2, padding=1),
            nn.BatchNorm2d(130),
            nn.ReLU(inplace=True),
            *_make_block(130, (2, 2, 4, 4, 8, 8, 16, 16)),
        )
        self.classifier = nn.Conv2d(450, num_classes, 1)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        logits = self.classifier(self.encoder(images))
        return (resize(logits, images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class EDAModule(nn.Module):
    """1x1 and two 3x3 convolutions (each as 3x1 and 1x3), concatenated with the input.

    Source: https://arxiv.org/abs/1809.06323, figure 3.

    Args:
        in_channels: Channels of the input; the output has 40 more.
        dilation: Dilation of the second 3x3 convolution.
    """

    def __init__(self, in_channels: int, dilation: int) -> None:
        super().__init__()
        d = dilation
        self.branch = nn.Sequential(
            nn.Conv2d(in_channels, _GROWTH, 1),
            nn.BatchNorm2d(_GROWTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(_GROWTH, _GROWTH, (3, 1), padding=(1, 0)),
            nn.Conv2d(_GROWTH, _GROWTH, (1, 3), padding=(0, 1)),
            nn.BatchNorm2d(_GROWTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(_GROWTH, _GROWTH, (3, 1), padding=(d, 0), dilation=(d, 1)),
            nn.Conv2d(_GROWTH, _GROWTH, (1, 3), padding=(0, d), dilation=(1, d)),
            nn.BatchNorm2d(_GROWTH),
            nn.Dropout2d(0.02),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, in_channels + 40, H, W)."""
        return F.relu(torch.cat((self.branch(features), features), dim=1))


def _make_block(in_channels: int, dilations: Sequence[int]) -> list[nn.Module]:
    return [EDAModule(in_channels + _GROWTH * i, d) for i, d in enumerate(dilations)]
