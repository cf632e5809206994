"""Averages of a map over growing windows, which DDRNet and PIDNet fuse in their pyramids."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks.layers import BNReLUConv, resize

_WINDOWS = (5, 9, 17)


class PooledViews(nn.Module):
    """The map and its averages over windows of 5, 9, 17 and all of it, each projected by a 1x1.

    Source: Pan et al., "DDRNet", https://arxiv.org/abs/2101.06085, figure 5.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of each view.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        num_views = 2 + len(_WINDOWS)
        self.projections = nn.ModuleList(
            BNReLUConv(in_channels, out_channels, 1) for _ in range(num_views)
        )

    def forward(self, features: Tensor) -> list[Tensor]:
        """Map (N, in_channels, H, W) to five views (N, out_channels, H, W), unpooled first."""
        averages = [F.avg_pool2d(features, w, w // 2, w // 2) for w in _WINDOWS]
        maps = (features, *averages, F.adaptive_avg_pool2d(features, 1))
        return [
            resize(project(pooled), features.shape[-2:])
            for project, pooled in zip(self.projections, maps, strict=True)
        ]
