"""PP-LiteSeg: STDC's encoder, a light pyramid, and a decoder with spatial attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.attention import PlaceWeights
from models.blocks.layers import ConvBNReLU, FCNHead, resize
from models.network import SegmentationNetwork
from models.networks.stdc import STAGE_CHANNELS, STDCEncoder


class PPLiteSeg(SegmentationNetwork):
    """PP-LiteSeg-T: the decoder narrows towards the fine scales, from 128 to 64 to 32 channels.

    6.324 M parameters with 19 classes and no auxiliary heads (6.437 M with them). The paper states
    no number. A public reimplementation has 6.33 M; the authors' code has 8.03 M, because it
    projects the encoder's features by 3x3 instead of 1x1.

    Source: Peng et al., https://arxiv.org/abs/2204.02681, figures 2 to 5 and table 1; widths of
        pyramid and heads from the authors' code, https://github.com/PaddlePaddle/PaddleSeg
    Differs: the 1x1, see above; a scale parameter that their fusion never uses is left out.

    Args:
        num_classes: Number of classes, at least 2.
        auxiliary: Whether train mode also returns the logits of two heads, on the decoder at 1/16
            and at 1/32.
    """

    def __init__(self, num_classes: int = 19, *, auxiliary: bool = False) -> None:
        super().__init__()
        self.encoder = STDCEncoder()
        self.pyramid = LightPyramid(STAGE_CHANNELS[-1], 128)
        self.fusions = nn.ModuleList(
            AttentionFusion(fine, coarse, out)
            for fine, coarse, out in zip(
                reversed(STAGE_CHANNELS), (128, 128, 64), (128, 64, 32), strict=True
            )
        )
        self.head = FCNHead(32, 32, num_classes)
        widths = (64, 128) if auxiliary else ()
        self.auxiliary_heads = nn.ModuleList(FCNHead(c, 64, num_classes) for c in widths)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        features = self.encoder(images)
        decoded = [self.pyramid(features[-1])]
        for fusion, fine in zip(self.fusions, reversed(features), strict=True):
            decoded.append(fusion(fine, decoded[-1]))
        outputs = [self.head(decoded[-1])]
        if with_auxiliary:
            heads = zip(self.auxiliary_heads, decoded[-2::-1], strict=False)
            outputs += [head(coarse) for head, coarse in heads]
        return tuple(resize(output, images.shape[-2:]) for output in outputs)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """See `SegmentationNetwork.get_output_layers`."""
        heads = (self.head, *self.auxiliary_heads)
        return tuple(head[-1] for head in heads)


class LightPyramid(nn.Module):
    """The paper's SPPM: averages over grids, each projected by a 1x1, summed, then a 3x3.

    Source: Peng et al., https://arxiv.org/abs/2204.02681, figure 5.

    Args:
        in_channels: Channels of the input.
        channels: Channels of each average and of the output.
        grids: Number of rows, and of columns, of each grid.
    """

    def __init__(self, in_channels: int, channels: int, grids: tuple[int, ...] = (1, 2, 4)) -> None:
        super().__init__()
        self.grids = grids
        self.branches = nn.ModuleList(ConvBNReLU(in_channels, channels, 1) for _ in grids)
        self.mix = ConvBNReLU(channels, channels, 3)

    def forward(self, features: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, channels, H, W)."""
        averages = [
            resize(branch(F.adaptive_avg_pool2d(features, grid)), features.shape[-2:])
            for grid, branch in zip(self.grids, self.branches, strict=True)
        ]
        mixed: Tensor = self.mix(sum(averages[1:], start=averages[0]))
        return mixed


class AttentionFusion(nn.Module):
    """The paper's UAFM with spatial attention: a weighted mean of two maps, then 3x3.

    The paper does not say how the fine map is brought to the channels of the coarse one. We use a
    1x1.

    Source: Peng et al., https://arxiv.org/abs/2204.02681, equations 1 to 3.

    Args:
        fine_channels: Channels of the fine map, which comes from the encoder.
        coarse_channels: Channels of the coarse map, which comes from the decoder.
        out_channels: Channels of the output.
    """

    def __init__(self, fine_channels: int, coarse_channels: int, out_channels: int) -> None:
        super().__init__()
        self.project = ConvBNReLU(fine_channels, coarse_channels, 1)
        self.attention = PlaceWeights(coarse_channels)
        self.mix = ConvBNReLU(coarse_channels, out_channels, 3)

    def forward(self, fine: Tensor, coarse: Tensor) -> Tensor:
        """Fuse (N, fine, H, W) and (N, coarse, h, w) to (N, out_channels, H, W)."""
        fine = self.project(fine)
        coarse = resize(coarse, fine.shape[-2:])
        share = self.attention(torch.cat((fine, coarse), dim=1))
        mixed: Tensor = self.mix(share * fine + (1 - share) * coarse)
        return mixed
