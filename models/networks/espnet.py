"""ESPNet: spatial pyramids of dilated convolutions, and a decoder as wide as the classes."""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.layers import BNPReLU, ConvBNPReLU, resize
from models.network import SegmentationNetwork

DILATIONS = (1, 2, 4, 8, 16)
_BATCHNORM_EPS = 1e-3


class ESPNet(SegmentationNetwork):
    """ESPNet with its light decoder: 0.353 M parameters with 11 classes; published 0.36 M.

    Source: Mehta et al., "ESPNet: efficient spatial pyramid of dilated convolutions for semantic
        segmentation", https://arxiv.org/abs/1803.06815, figure 4; sacmehta/ESPNet, whose weights
        `models.pretrained` loads.
    Differs: maps that are one pixel too large at odd image sizes are resized; with fewer than five
        classes the decoder's pyramid has as many branches as there are classes.

    Args:
        num_classes: Number of classes, at least 2.
        alpha2: Number of ESP modules at 1/4 after the strided one (the authors' p).
        alpha3: Number of ESP modules at 1/8 after the strided one (the authors' q).
    """

    def __init__(self, num_classes: int = 19, *, alpha2: int = 2, alpha3: int = 8) -> None:
        if min(alpha2, alpha3) < 1:
            raise ValueError(f"alpha2 and alpha3 must be at least 1, got {alpha2!r} and {alpha3!r}")
        super().__init__()
        self.level1 = ConvBNPReLU(3, 16, 3, stride=2)
        self.level1_norm = BNPReLU(16 + 3)
        self.level2_down = ESP(16 + 3, 64, stride=2)
        self.level2 = nn.Sequential(*(ESP(64, 64, residual=True) for _ in range(alpha2)))
        self.level2_norm = BNPReLU(2 * 64 + 3)
        self.level3_down = ESP(2 * 64 + 3, 128, stride=2)
        self.level3 = nn.Sequential(*(ESP(128, 128, residual=True) for _ in range(alpha3)))
        self.level3_norm = BNPReLU(2 * 128)

        self.level3_project = nn.Sequential(
            nn.Conv2d(2 * 128, num_classes, 1, bias=False), nn.BatchNorm2d(num_classes)
        )
        self.level3_up = _double(num_classes, num_classes)
        self.level2_project = nn.Conv2d(2 * 64 + 3, num_classes, 1, bias=False)
        self.level2_merge = nn.Sequential(
            BNPReLU(2 * num_classes), ESP(2 * num_classes, num_classes)
        )
        self.level2_up = nn.Sequential(_double(num_classes, num_classes), BNPReLU(num_classes))
        self.level1_merge = ConvBNPReLU(num_classes + 16 + 3, num_classes, 3)
        self.classifier = _double(num_classes, num_classes)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = _BATCHNORM_EPS

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        half = F.avg_pool2d(images, 3, stride=2, padding=1)
        quarter = F.avg_pool2d(half, 3, stride=2, padding=1)
        level1 = self.level1_norm(torch.cat((self.level1(images), half), dim=1))
        down2 = self.level2_down(level1)
        level2 = self.level2_norm(torch.cat((self.level2(down2), down2, quarter), dim=1))
        down3 = self.level3_down(level2)
        level3 = self.level3_norm(torch.cat((down3, self.level3(down3)), dim=1))

        up = resize(self.level3_up(self.level3_project(level3)), level2.shape[-2:])
        up = self.level2_merge(torch.cat((self.level2_project(level2), up), dim=1))
        up = resize(self.level2_up(up), level1.shape[-2:])
        up = self.level1_merge(torch.cat((up, level1), dim=1))
        return (resize(self.classifier(up), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class ESP(nn.Module):
    """ESP module: reduce, convolve with five dilations, sum the views cumulatively, concatenate.

    Source: Mehta et al., section 3; the cumulative sum ("hierarchical feature fusion") removes the
        gridding artefacts of dilation.
    Differs: the undilated view is not part of the sum, as in the authors' code.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output. Each dilated view has a fifth, rounded down, and the
            undilated view has the rest.
        stride: Stride, 1 (reduction by a 1x1 convolution) or 2 (by a 3x3 convolution).
        residual: Whether the input is added.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, stride: int = 1, residual: bool = False
    ) -> None:
        super().__init__()
        first, *others = DILATIONS[: min(len(DILATIONS), out_channels)]
        width = out_channels // (1 + len(others))
        kernel_size = 1 if stride == 1 else 3
        self.residual = residual
        self.reduce = nn.Conv2d(
            in_channels, width, kernel_size, stride, kernel_size // 2, bias=False
        )
        self.undilated = _dilate(width, out_channels - len(others) * width, first)
        self.dilated = nn.ModuleList(_dilate(width, width, dilation) for dilation in others)
        self.norm = BNPReLU(out_channels)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H / stride, W / stride)."""
        reduced = self.reduce(features)
        sums = accumulate(view(reduced) for view in self.dilated)
        merged = torch.cat((self.undilated(reduced), *sums), dim=1)
        normed: Tensor = self.norm(features + merged if self.residual else merged)
        return normed


def _dilate(in_channels: int, out_channels: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, padding=dilation, dilation=dilation, bias=False)


def _double(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2, bias=False)
