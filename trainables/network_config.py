"""Which network is built, and from which weights it starts."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from models import MODELS, SegmentationNetwork, create_model
from trainables.artifacts.checksum import checksum


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """A network of `models.MODELS`.

    Attributes:
        name: Key of `models.MODELS`.
        backbone: A segmentation-models-pytorch encoder, or "tu-" and a timm model; None: the
            network's own.
        backbone_weights: None: random; "imagenet": downloaded by the library; else a safetensors
            file, where a relative path may also lie below $SEGFRONT_WEIGHTS.
        width: Channel multiplier; None: the network's own.
        output_stride: Of the backbone; smaller is finer and slower. None: the network's own.
        decoder_channels: Of a DeepLabV3+; None: the network's own.
        auxiliary: Train with an auxiliary head (its loss weighs `TrainConfig.auxiliary_weight`).
    """

    name: str = "dual_branch"
    backbone: str | None = None
    backbone_weights: str | None = None
    width: float | None = None
    output_stride: int | None = None
    decoder_channels: int | None = None
    auxiliary: bool = False

    def __post_init__(self) -> None:
        if self.name not in MODELS:
            raise ValueError(f"network must be one of {', '.join(MODELS)}; got {self.name!r}")
        if self.width is not None and self.width <= 0:
            raise ValueError(f"width must be greater than 0, got {self.width}")

    def weights_path(self) -> Path | None:
        """Local file of the backbone's weights, if it starts from one.

        Raises:
            ValueError: The file exists neither as given nor below $SEGFRONT_WEIGHTS.
        """
        if self.backbone_weights in (None, "imagenet"):
            return None
        given = Path(str(self.backbone_weights))
        shared = os.environ.get("SEGFRONT_WEIGHTS")
        for path in (
            given,
            *([Path(shared) / given] if shared and not given.is_absolute() else []),
        ):
            if path.is_file():
                return path
        raise ValueError(
            f"backbone_weights must be imagenet or a safetensors file; {given} is neither here nor "
            f"below SEGFRONT_WEIGHTS={shared or '(not set)'}"
        )

    def build(self, num_classes: int) -> SegmentationNetwork:
        """Build the network in train mode.

        Raises:
            ValueError: The network does not know an option, or the weights do not fit.
        """
        names = ("backbone", "width", "output_stride", "decoder_channels")
        given = {name: getattr(self, name) for name in names}
        options = {name: value for name, value in given.items() if value is not None}
        if self.backbone_weights is not None:
            options["backbone_weights"] = self.weights_path() or self.backbone_weights
        if self.auxiliary:
            options["auxiliary"] = True
        return create_model(self.name, num_classes, **options)

    def content(self) -> dict[str, Any]:
        """What the network's first weights depend on: a file of weights counts by its bytes."""
        path = self.weights_path()
        weights = checksum(path) if path else self.backbone_weights
        return {
            "name": self.name,
            "backbone": self.backbone,
            "backbone_weights": weights,
            "width": self.width,
            "output_stride": self.output_stride,
            "decoder_channels": self.decoder_channels,
            "auxiliary": self.auxiliary,
        }
