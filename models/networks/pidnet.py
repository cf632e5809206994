"""PIDNet: three branches for details, context and boundaries, named after a PID controller."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.channel_layers import ChannelTotal
from models.blocks.layers import BNReLUConv, ConvBN, ConvBNReLU, resize
from models.blocks.pooled_views import PooledViews
from models.blocks.residual import BasicBlock, Bottleneck, make_stage
from models.network import SegmentationNetwork
from models.networks.ddrnet import make_head


class PIDNet(SegmentationNetwork):
    """PIDNet-S: the proportional branch keeps details, the integral branch finds context.

    The derivative branch finds boundaries, and decides for each position how to weight the other
    two.

    7.626 M parameters with 19 classes and no auxiliary head (7.702 M with it); published 7.6 M,
    which is the authors' deployed form (7.63 M).

    Source: Xu et al., https://arxiv.org/abs/2206.02066, figures 4 to 7 and table 1; widths from the
        authors' code, https://github.com/XuJiacong/PIDNet
    Differs: no boundary head. The paper also trains the derivative branch on class boundaries; here
        every loss is on the classes. The stem's convolutions have no biases, because a BatchNorm
        follows each.

    Args:
        num_classes: Number of classes, at least 2.
        channels: Channels of the stem, which all other widths follow; a multiple of 8.
        auxiliary: Whether train mode also returns the logits of a head on the proportional branch
            after the first guidance.
    """

    def __init__(
        self, num_classes: int = 19, *, channels: int = 32, auxiliary: bool = False
    ) -> None:
        if channels < 8 or channels % 8:
            raise ValueError(f"channels must be a positive multiple of 8, got {channels!r}")
        super().__init__()
        c = channels
        self.stem = nn.Sequential(
            ConvBNReLU(3, c, 3, stride=2),
            ConvBNReLU(c, c, 3, stride=2),
            make_stage(c, c, num_blocks=2),
            nn.ReLU(),
            make_stage(c, 2 * c, num_blocks=2, stride=2),
            nn.ReLU(),
        )
        self.integral = nn.ModuleList(
            (
                make_stage(2 * c, 4 * c, num_blocks=3, stride=2),
                make_stage(4 * c, 8 * c, num_blocks=3, stride=2),
                nn.Sequential(Bottleneck(8 * c, 8 * c, stride=2), Bottleneck(16 * c, 8 * c)),
            )
        )
        self.proportional = nn.ModuleList(
            (
                make_stage(2 * c, 2 * c, num_blocks=2),
                make_stage(2 * c, 2 * c, num_blocks=2),
                Bottleneck(2 * c, 2 * c),
            )
        )
        self.derivative = nn.ModuleList(
            (
                BasicBlock(2 * c, c, activate=False),
                Bottleneck(c, c),
                Bottleneck(2 * c, 2 * c),
            )
        )
        self.to_proportional = nn.ModuleList((ConvBN(4 * c, 2 * c, 1), ConvBN(8 * c, 2 * c, 1)))
        self.to_derivative = nn.ModuleList((ConvBN(4 * c, c, 3), ConvBN(8 * c, 2 * c, 3)))
        self.guidance = nn.ModuleList(PixelAttentionGuidance(2 * c, c) for _ in range(2))
        self.pyramid = ParallelAggregation(16 * c, 3 * c, 4 * c)
        self.fusion = BoundaryAttentionFusion(4 * c)
        self.head = make_head(4 * c, 4 * c, num_classes)
        self.auxiliary_head = make_head(2 * c, 4 * c, num_classes) if auxiliary else None

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        size = images.shape[-2:]
        integral = proportional = derivative = self.stem(images)
        eighth = integral.shape[-2:]
        guided = []
        for i in range(2):
            integral = F.relu(self.integral[i](integral))
            proportional = self.guidance[i](
                self.proportional[i](proportional), self.to_proportional[i](integral)
            )
            derivative = self.derivative[i](derivative)
            derivative = derivative + resize(self.to_derivative[i](integral), eighth)
            guided.append(proportional)
            proportional, derivative = F.relu(proportional), F.relu(derivative)

        context = resize(self.pyramid(self.integral[2](integral)), eighth)
        fused = self.fusion(self.proportional[2](proportional), context,
                            self.derivative[2](derivative))  # fmt: skip
        logits = resize(self.head(fused), size)
        if not with_auxiliary or self.auxiliary_head is None:
            return (logits,)
        return logits, resize(self.auxiliary_head(guided[0]), size)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        heads = (self.head,) if self.auxiliary_head is None else (self.head, self.auxiliary_head)
        return tuple(head[-1] for head in heads)


class PixelAttentionGuidance(nn.Module):
    """The paper's Pag: adds context at each position in proportion to its agreement with details.

    Source: Xu et al., https://arxiv.org/abs/2206.02066, equations 3 and 4.

    Args:
        channels: Channels of both inputs and of the output.
        compared_channels: Channels of the embedding in which the two are compared.
    """

    def __init__(self, channels: int, compared_channels: int) -> None:
        super().__init__()
        self.embed_detail = ConvBN(channels, compared_channels, 1)
        self.embed_context = ConvBN(channels, compared_channels, 1)
        self.agreement = ChannelTotal(compared_channels, channels)

    def forward(self, detail: Tensor, context: Tensor) -> Tensor:
        """Mix (N, channels, H, W) with (N, channels, h, w) to (N, channels, H, W)."""
        size = detail.shape[-2:]
        products = self.embed_detail(detail) * resize(self.embed_context(context), size)
        share = self.agreement(products).sigmoid()
        mixed: Tensor = (1 - share) * detail + share * resize(context, size)
        return mixed


class ParallelAggregation(nn.Module):
    """The paper's PAPPM: all pooled views are blended at once by a 3x3 with four groups.

    Source: Xu et al., https://arxiv.org/abs/2206.02066, figure 6.

    Args:
        in_channels: Channels of the input.
        view_channels: Channels of each view.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, view_channels: int, out_channels: int) -> None:
        super().__init__()
        self.views = PooledViews(in_channels, view_channels)
        self.blend = BNReLUConv(4 * view_channels, 4 * view_channels, 3, groups=4)
        self.compress = BNReLUConv(5 * view_channels, out_channels, 1)
        self.shortcut = BNReLUConv(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        first, *others = self.views(features)
        blended = self.blend(torch.cat([view + first for view in others], dim=1))
        compressed = self.compress(torch.cat((first, blended), dim=1))
        aggregated: Tensor = compressed + self.shortcut(features)
        return aggregated


class BoundaryAttentionFusion(nn.Module):
    """The paper's Light-Bag: details dominate at boundaries, context elsewhere.

    Source: Xu et al., https://arxiv.org/abs/2206.02066, figure 7, right.

    Args:
        channels: Channels of the three inputs and of the output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.detail = ConvBN(channels, channels, 1)
        self.context = ConvBN(channels, channels, 1)

    def forward(self, detail: Tensor, context: Tensor, boundary: Tensor) -> Tensor:
        """Fuse three maps (N, channels, H, W) to one."""
        edge = boundary.sigmoid()
        details = self.detail((1 - edge) * context + detail)
        fused: Tensor = details + self.context(context + edge * detail)
        return fused
