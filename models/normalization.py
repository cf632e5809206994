"""Normalisation as part of a deployed network, as the checkpoint of the network states it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Normalization:
    """What becomes of uint8 images: divided by the scale, less the mean, divided by the deviation.

    Attributes:
        mean: Of red, green and blue, after the division.
        std: Of red, green and blue, after the division; above 0.
        scale: Above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    scale: float = 255.0

    def __post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3:
            raise ValueError(f"mean and std must be of 3 channels, got {self.mean} and {self.std}")
        if not (min(self.std) > 0 and self.scale > 0):
            raise ValueError(f"std and scale must be above 0, got {self.std} and {self.scale}")

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Normalization:
        """Take it from what `models.checkpoint.read_metadata` returns.

        Raises:
            ValueError: The metadata state none.
        """
        try:
            stated = metadata["normalization"]
            return cls(
                mean=tuple(map(float, stated["mean"])),
                std=tuple(map(float, stated["std"])),
                scale=float(stated["scale"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the checkpoint states no normalisation: {error!r}") from error


class Normalize(nn.Module):
    """Normalises images.

    Args:
        normalization: How.
    """

    offset: Tensor
    factor: Tensor

    def __init__(self, normalization: Normalization) -> None:
        super().__init__()
        mean = torch.tensor(normalization.mean) * normalization.scale
        std = torch.tensor(normalization.std) * normalization.scale
        self.register_buffer("offset", mean.view(1, 3, 1, 1))
        self.register_buffer("factor", std.reciprocal().view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) uint8, RGB, to float32 of the same shape."""
        return (images.float() - self.offset) * self.factor
