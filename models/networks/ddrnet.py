"""DDRNet: a branch at 1/8 and one down to 1/64, which exchange features twice."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.layers import BNReLUConv, ConvBN, ConvBNReLU, resize
from models.blocks.pooled_views import PooledViews
from models.blocks.residual import Bottleneck, make_stage
from models.network import SegmentationNetwork


class DDRNet(SegmentationNetwork):
    """DDRNet-23-slim: the two branches add to each other after 1/16 and after 1/32.

    5.696 M parameters with 19 classes and no auxiliary head (5.734 M with it); published 5.7 M.

    Source: Pan et al., https://arxiv.org/abs/2101.06085, table 1 and figures 3 to 5; widths of
        pyramid and heads from the authors' code, https://github.com/ydhongHIT/DDRNet
    Differs: the two convolutions of the stem have no biases, because a BatchNorm follows each.

    Args:
        num_classes: Number of classes, at least 2.
        channels: Channels of the stem, which all other widths follow; a multiple of 8.
        auxiliary: Whether train mode also returns the logits of a head on the fine branch after
            the first exchange.
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
        self.coarse = nn.ModuleList(
            (
                make_stage(2 * c, 4 * c, num_blocks=2, stride=2),
                make_stage(4 * c, 8 * c, num_blocks=2, stride=2),
                Bottleneck(8 * c, 8 * c, stride=2),
            )
        )
        self.fine = nn.ModuleList(
            (
                make_stage(2 * c, 2 * c, num_blocks=2),
                make_stage(2 * c, 2 * c, num_blocks=2),
                Bottleneck(2 * c, 2 * c),
            )
        )
        self.to_fine = nn.ModuleList((ConvBN(4 * c, 2 * c, 1), ConvBN(8 * c, 2 * c, 1)))
        self.to_coarse = nn.ModuleList(
            (
                ConvBN(2 * c, 4 * c, 3, stride=2),
                nn.Sequential(
                    ConvBNReLU(2 * c, 4 * c, 3, stride=2), ConvBN(4 * c, 8 * c, 3, stride=2)
                ),
            )
        )
        self.pyramid = DeepAggregation(16 * c, 4 * c, 4 * c)
        self.head = make_head(4 * c, 2 * c, num_classes)
        self.auxiliary_head = make_head(2 * c, 2 * c, num_classes) if auxiliary else None

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        size = images.shape[-2:]
        coarse = fine = self.stem(images)
        exchanges = zip(self.coarse, self.fine, self.to_coarse, self.to_fine, strict=False)
        exchanged = []
        for coarsen, refine, to_coarse, to_fine in exchanges:
            coarse, fine = coarsen(coarse), refine(fine)
            news = resize(to_fine(F.relu(coarse)), fine.shape[-2:])
            coarse = F.relu(coarse + to_coarse(F.relu(fine)))
            exchanged.append(fine + news)
            fine = F.relu(exchanged[-1])

        context = self.pyramid(self.coarse[-1](coarse))
        fine = self.fine[-1](fine)
        logits = resize(self.head(fine + resize(context, fine.shape[-2:])), size)
        if not with_auxiliary or self.auxiliary_head is None:
            return (logits,)
        return logits, resize(self.auxiliary_head(exchanged[0]), size)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        heads = (self.head,) if self.auxiliary_head is None else (self.head, self.auxiliary_head)
        return tuple(head[-1] for head in heads)


class DeepAggregation(nn.Module):
    """The paper's DAPPM: each pooled view is blended with the one before, by 3x3.

    Source: Pan et al., https://arxiv.org/abs/2101.06085, equation 5.

    Args:
        in_channels: Channels of the input.
        view_channels: Channels of each view.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, view_channels: int, out_channels: int) -> None:
        super().__init__()
        self.views = PooledViews(in_channels, view_channels)
        self.blends = nn.ModuleList(BNReLUConv(view_channels, view_channels, 3) for _ in range(4))
        self.compress = BNReLUConv(5 * view_channels, out_channels, 1)
        self.shortcut = BNReLUConv(in_channels, out_channels, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H, W)."""
        first, *others = self.views(features)
        blended = [first]
        for blend, view in zip(self.blends, others, strict=True):
            blended.append(blend(view + blended[-1]))
        compressed = self.compress(torch.cat(blended, dim=1))
        aggregated: Tensor = compressed + self.shortcut(features)
        return aggregated


def make_head(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    """Return the head of DDRNet and PIDNet: BN, ReLU, 3x3, BN, ReLU, 1x1 to the classes."""
    return nn.Sequential(
        *BNReLUConv(in_channels, channels, 3), *BNReLUConv(channels, num_classes, 1, bias=True)
    )
