"""How a network wants its pixels: part of the network, its checkpoint and its exported file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

ChannelOrder = Literal["rgb", "bgr"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalization:
    """What becomes of uint8 RGB images: (pixel / scale - mean) / std, channel by channel.

    It stays outside the first convolution: folded into that it would be wrong along the border,
    where zero padding stands for the mean, not for black. The defaults are those of ImageNet.

    Attributes:
        mean: After the division, in the network's channel order.
        std: As `mean`; above 0.
        scale: What pixels of 0 to 255 are divided by, above 0: 255 for means within 0..1, 1 for
            means within 0..255.
        channel_order: The order in which the network takes the channels.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: float = 255.0
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"mean and std must be of 3 channels, got {self.mean} and {self.std}")
        if not (min(self.std) > 0 and self.scale > 0):
            raise ValueError(f"std and scale must be above 0, got {self.std} and {self.scale}")
        if not all(math.isfinite(v) for v in (*self.mean, *self.std, self.scale)):
            raise ValueError(f"mean, std and scale must be finite, got {self}")
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order must be 'rgb' or 'bgr', got {self.channel_order!r}")

    def to_json(self) -> dict[str, Any]:
        """Write as what `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> Normalization:
        """Read what `to_json` wrote; older checkpoints say nothing of the channel order.

        Raises:
            ValueError: It is none.
        """
        try:
            first, second, third = map(float, stated["mean"])
            one, two, three = map(float, stated["std"])
            return cls(
                mean=(first, second, third),
                std=(one, two, three),
                scale=float(stated["scale"]),
                channel_order=stated.get("channel_order", "rgb"),
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"not a normalisation: {error!r}") from error

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Normalization:
        """Take it from what `models.checkpoint.read_metadata` returns.

        Raises:
            ValueError: The metadata state none.
        """
        try:
            return cls.from_json(metadata["normalization"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"the checkpoint states no normalisation: {error!r}") from error

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise (..., 3, H, W) RGB of any type, 0 to 255, to float32 of the same shape.

        The memory format stays.
        """
        pixels = images.to(torch.float32, copy=True)
        if self.channel_order == "bgr":
            pixels = pixels.flip(-3)
        offset = pixels.new_tensor(self.mean).mul_(self.scale)
        factor = pixels.new_tensor(self.std).mul_(self.scale).reciprocal_()
        return pixels.sub_(offset.view(3, 1, 1)).mul_(factor.view(3, 1, 1))


IMAGENET = Normalization()
"""What backbones from ImageNet expect; source: torchvision's documentation of its models."""


class Normalize(nn.Module):
    """Normalises images.

    Args:
        normalization: How.
    """

    offset: Tensor
    factor: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        self.is_bgr = normalization.channel_order == "bgr"
        mean = torch.tensor(normalization.mean, dtype=torch.float32) * normalization.scale
        std = torch.tensor(normalization.std, dtype=torch.float32) * normalization.scale
        self.register_buffer("offset", mean.view(1, 3, 1, 1))
        self.register_buffer("factor", std.reciprocal().view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) uint8, RGB, to float32 of the same shape."""
        pixels = images.float()
        if self.is_bgr:
            pixels = pixels.flip(1)
        return (pixels - self.offset) * self.factor
