"""Encoders of segmentation-models-pytorch and timm, with downloaded or local weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
from timm.models import is_model_in_modules
from torch import Tensor, nn

from models.blocks.layers import scale_channels
from models.files.weight_files import load_strictly, read_tensors

BackboneWeights = str | Path | None
"""None: random; "imagenet": downloaded by the library; else the path of a safetensors file."""

_HEAD_PREFIXES = ("classifier.", "fc.", "head.", "last_linear.", "conv_head.", "bn2.", "conv_out.")
_RESNET_STAGES = (64, 128, 256, 512)


def create_backbone(
    name: str, weights: BackboneWeights = None, *, output_stride: int = 32, width: float = 1.0
) -> nn.Module:
    """Build an encoder that returns its features at strides 1, 2, 4, 8, 16, 32.

    `width` applies only to timm's ResNets (their `channels=` and `stem_width=`). Every other
    encoder keeps its own width; choose a smaller one from its library instead.

    Args:
        name: Name of a segmentation-models-pytorch encoder, or "tu-" followed by a timm model name.
        weights: Source of the weights, see `BackboneWeights`.
        output_stride: Total stride, 8, 16 or 32; later stages are dilated instead of strided.
        width: Factor on the channels of a timm ResNet, above 0.

    Returns:
        A module that maps images to a list of features, with `out_channels` (one number per
        stride).

    Raises:
        ValueError: The name or the stride is unknown, or the weights do not fit.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride!r}")
    if not width > 0:
        raise ValueError(f"width must be above 0, got {width!r}")
    options = _narrow(name, width)
    if weights == "imagenet" and options:
        raise ValueError(f'backbone_weights "imagenet" need width 1, got width {width!r}')
    encoder: nn.Module = smp.encoders.get_encoder(
        name, weights=get_library_weights(name, weights), output_stride=output_stride, **options
    )
    load_backbone_weights(encoder, weights)
    return encoder


def get_library_weights(name: str, weights: BackboneWeights) -> str | bool | None:
    """Translate to the argument that segmentation-models-pytorch calls `encoder_weights`.

    Args:
        name: Name of the encoder, which is checked here.
        weights: Source of the weights; for a local path the library loads none.

    Raises:
        ValueError: There is no such encoder.
    """
    timm_name = name.removeprefix("tu-").split(".")[0]
    if name.startswith("tu-"):
        if not timm.is_model(timm_name):
            raise ValueError(f"backbone {name!r}: timm has no such model, see timm.list_models()")
    elif name not in smp.encoders.get_encoder_names():
        allowed = ", ".join(sorted(smp.encoders.get_encoder_names()))
        raise ValueError(
            f'backbone must be "tu-" and a timm model, or one of {allowed}; got {name!r}'
        )
    if weights != "imagenet":
        return None
    return True if name.startswith("tu-") else "imagenet"


def load_backbone_weights(encoder: nn.Module, weights: BackboneWeights) -> None:
    """Load local weights in torchvision's or timm's naming; the classifier's weights are ignored.

    Args:
        encoder: Encoder whose weights are replaced in place.
        weights: Path of a safetensors file; None and "imagenet" leave the encoder as it is.

    Raises:
        ValueError: The file does not exist or is not safetensors, or tensors are missing,
            unexpected or of another shape (the message names them).
    """
    if weights is None or weights == "imagenet":
        return
    load_backbone_tensors(encoder, read_tensors(weights), source=weights)


def load_backbone_tensors(
    encoder: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path
) -> None:
    """Load tensors in torchvision's or timm's naming; the classifier's tensors are ignored.

    Args:
        encoder: Encoder whose weights are replaced in place.
        tensors: Tensors by name.
        source: Origin of the tensors, for the error message.

    Raises:
        ValueError: Tensors are missing, unexpected or of another shape (the message names them).
    """
    expected = encoder.state_dict()
    if expected and all(key.startswith("model.") for key in expected):
        tensors = {f"model.{key.removeprefix('model.')}": t for key, t in tensors.items()}
    own = {key: tensor for key, tensor in tensors.items() if key in expected or not _is_head(key)}
    load_strictly(encoder, own, source=source, target="backbone")


def _is_head(key: str) -> bool:
    """Whether a tensor belongs to the classifier, which a backbone does not have."""
    return key.removeprefix("model.").startswith(_HEAD_PREFIXES)


def _narrow(name: str, width: float) -> dict[str, Any]:
    """Return timm's keywords for a narrower ResNet; none for other encoders."""
    model = name.removeprefix("tu-").split(".")[0]
    if width == 1 or not name.startswith("tu-") or not is_model_in_modules(model, ["resnet"]):
        return {}
    return {
        "channels": tuple(scale_channels(c, width) for c in _RESNET_STAGES),
        "stem_width": scale_channels(32, width),
    }
