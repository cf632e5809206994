"""CGNet: blocks that join local features, surrounding context and global context."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.layers import BNPReLU, ConvBNPReLU, resize
from models.network import SegmentationNetwork

Joint = tuple[Tensor, Tensor]
"""The two halves of a joint feature, local and surrounding context, each (N, C / 2, H, W)."""


class CGNet(SegmentationNetwork):
    """The context guided network with 3 blocks at 1/4 and 21 blocks at 1/8.

    0.496 M parameters with 19 classes; published 0.496 M.

    Source: Wu et al., "CGNet: a light-weight context guided network for semantic segmentation",
        https://arxiv.org/abs/1811.08201, section 3 and table I; details that it leaves open from
        the authors' code, https://github.com/wutianyiRosun/CGNet.
    Differs: the halves of the joint feature stay two tensors until a convolution reads both.
        Channel c of both halves comes from the same input channel; pruning can remove channel c of
        two tensors together, but not two corresponding channels of one tensor.

    Args:
        num_classes: Number of classes, at least 2.
    """

    def __init__(self, num_classes: int = 19) -> None:
        super().__init__()
        self.initial = nn.Sequential(
            ConvBNPReLU(3, 32, 3, stride=2), ConvBNPReLU(32, 32, 3), ConvBNPReLU(32, 32, 3)
        )
        self.norm1 = BNPReLU(35)
        self.stage2 = Stage(35, 64, num_blocks=3, dilation=2, reduction=8)
        self.norm2 = BNPReLU(131)
        self.stage3 = Stage(131, 128, num_blocks=21, dilation=4, reduction=16)
        self.norm3 = BNPReLU(256)
        self.classifier = nn.Conv2d(256, num_classes, 1, bias=False)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        half = F.avg_pool2d(images, 3, stride=2, padding=1)
        quarter = F.avg_pool2d(half, 3, stride=2, padding=1)
        features = self.norm1(torch.cat((self.initial(images), half), dim=1))
        features = self.norm2(torch.cat((self.stage2(features), quarter), dim=1))
        features = self.norm3(self.stage3(features))
        return (resize(self.classifier(features), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        return (self.classifier,)


class Stage(nn.Module):
    """A downsampling block and further blocks; the first and the last output are concatenated.

    Args:
        in_channels: Channels of the input.
        channels: Channels of every block; the output has twice as many.
        num_blocks: Number of blocks, at least 1.
        dilation: Dilation of the surrounding context.
        reduction: Ratio of `channels` to the inner channels of the global context.
    """

    def __init__(
        self, in_channels: int, channels: int, *, num_blocks: int, dilation: int, reduction: int
    ) -> None:
        super().__init__()
        self.down = DownsamplingBlock(in_channels, channels, dilation, reduction)
        self.blocks = nn.Sequential(
            *(ContextGuidedBlock(channels, dilation, reduction) for _ in range(num_blocks - 1))
        )

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, 2 channels, ceil(H / 2), ceil(W / 2))."""
        first: Joint = self.down(features)
        last: Joint = self.blocks(first)
        return torch.cat((*last, *first), dim=1)


class JointFeature(nn.Module):
    """Two depthwise 3x3 convolutions of one map, the second one dilated; BatchNorm, PReLU.

    Source: https://arxiv.org/abs/1811.08201, section 3.1.

    Args:
        channels: Channels of the input and of each half.
        dilation: Dilation of the second convolution.
    """

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.local = ConvBNPReLU(channels, channels, 3, groups=channels)
        self.surround = ConvBNPReLU(channels, channels, 3, dilation=dilation, groups=channels)

    def forward(self, features: Tensor) -> Joint:
        """Map (N, channels, H, W) to two of the same shape."""
        return self.local(features), self.surround(features)


class GlobalContext(nn.Module):
    """Reweights every channel of a joint feature by the global means of all channels.

    Source: https://arxiv.org/abs/1811.08201, section 3.1.

    Args:
        channels: Channels of both halves together.
        reduction: Ratio of `channels` to the inner channels.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        squeezed = channels // reduction
        self.squeeze = nn.Conv2d(channels, squeezed, 1)
        self.local = nn.Conv2d(squeezed, channels // 2, 1)
        self.surround = nn.Conv2d(squeezed, channels // 2, 1)

    def forward(self, joint: Joint) -> Joint:
        """Map a joint feature to one of the same shape."""
        local, surround = joint
        pooled = F.adaptive_avg_pool2d(torch.cat(joint, dim=1), 1)
        context = F.relu(self.squeeze(pooled))
        return (
            local * self.local(context).sigmoid(),
            surround * self.surround(context).sigmoid(),
        )


class ContextGuidedBlock(nn.Module):
    """1x1 to half the channels, joint feature, global context, residual sum.

    Source: https://arxiv.org/abs/1811.08201, figure 3d, with global residual learning.
    """

    def __init__(self, channels: int, dilation: int, reduction: int) -> None:
        super().__init__()
        self.squeeze = ConvBNPReLU(channels, channels // 2, 1)
        self.joint = JointFeature(channels // 2, dilation)
        self.context = GlobalContext(channels, reduction)

    def forward(self, joint: Joint) -> Joint:
        """Map a joint feature to one of the same shape."""
        squeezed = self.squeeze(torch.cat(joint, dim=1))
        local, surround = self.context(self.joint(squeezed))
        return joint[0] + local, joint[1] + surround


class DownsamplingBlock(nn.Module):
    """3x3 of stride 2, joint feature of twice the channels, 1x1 back, global context.

    Source: https://arxiv.org/abs/1811.08201, table I, and the authors' code.
    """

    def __init__(self, in_channels: int, channels: int, dilation: int, reduction: int) -> None:
        super().__init__()
        self.conv = ConvBNPReLU(in_channels, channels, 3, stride=2)
        self.joint = JointFeature(channels, dilation)
        self.local = nn.Conv2d(2 * channels, channels // 2, 1, bias=False)
        self.surround = nn.Conv2d(2 * channels, channels // 2, 1, bias=False)
        self.context = GlobalContext(channels, reduction)

    def forward(self, features: Tensor) -> Joint:
        """Map (N, in_channels, H, W) to a joint feature of half the size."""
        wide = torch.cat(self.joint(self.conv(features)), dim=1)
        joint: Joint = self.context((self.local(wide), self.surround(wide)))
        return joint
