"""Normalisation of images, which is part of a network, its checkpoint and its exported file."""

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
    """Normalisation of uint8 RGB images: (pixel / scale - mean) / std, channel by channel.

    It is not folded into the first convolution, because zero padding means the mean colour there,
    not black, so the result would be wrong along the border. The defaults are those of ImageNet.

    Attributes:
        mean: Mean after the division by `scale`, in the network's channel order.
        std: Standard deviation likewise, above 0.
        scale: Divisor of pixels of 0 to 255, above 0: 255 for means in 0..1, 1 for means in 0..255.
        channel_order: Channel order of the network's input.
    """

    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    scale: float = 255.0
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"mean and std must have 3 entries, got {self.mean} and {self.std}")
        if not (min(self.std) > 0 and self.scale > 0):
            raise ValueError(f"std and scale must be above 0, got {self.std} and {self.scale}")
        if not all(math.isfinite(v) for v in (*self.mean, *self.std, self.scale)):
            raise ValueError(f"mean, std and scale must be finite, got {self}")
        if self.channel_order not in ("rgb", "bgr"):
            raise ValueError(f"channel_order must be 'rgb' or 'bgr', got {self.channel_order!r}")

    def to_json(self) -> dict[str, Any]:
        """Return the values that `from_json` reads."""
        return asdict(self)

    @classmethod
    def from_json(cls, stated: Mapping[str, Any]) -> Normalization:
        """Read what `to_json` wrote; older checkpoints do not have the channel order.

        Raises:
            ValueError: The values are not a normalisation.
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
        """Read it from the metadata that `models.checkpoint.read_metadata` returns.

        Raises:
            ValueError: The metadata have no valid normalisation.
        """
        try:
            return cls.from_json(metadata["normalization"])
        except (KeyError, ValueError) as error:
            raise ValueError(f"the checkpoint has no valid normalisation: {error!r}") from error

    def __call__(self, images: Tensor) -> Tensor:
        """Normalise (..., 3, H, W) RGB of any dtype, 0 to 255, to float32 of the same shape.

        The memory format is kept.
        """
        pixels = images.to(torch.float32, copy=True)
        if self.channel_order == "bgr":
            pixels = pixels.flip(-3)
        offset = pixels.new_tensor(self.mean).mul_(self.scale)
        factor = pixels.new_tensor(self.std).mul_(self.scale).reciprocal_()
        return pixels.sub_(offset.view(3, 1, 1)).mul_(factor.view(3, 1, 1))


IMAGENET = Normalization()
"""The normalisation of backbones trained on ImageNet, from torchvision's documentation."""


class Normalize(nn.Module):
    """Applies a `Normalization` as a module.

    Args:
        normalization: The normalisation.
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
