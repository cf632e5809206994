"""Encoders of segmentation-models-pytorch (its own and timm's), with weights from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import is_model_in_modules
from torch import Tensor, nn

from models.layers import scale_channels

BackboneWeights = str | Path | None
"""None: random; "imagenet": the library's download; else the path of a safetensors file."""

_HEAD_PREFIXES = ("classifier.", "fc.", "head.", "last_linear.", "conv_head.", "bn2.", "conv_out.")
_RESNET_STAGES = (64, 128, 256, 512)


def create_backbone(
    name: str, weights: BackboneWeights = None, *, output_stride: int = 32, width: float = 1.0
) -> nn.Module:
    """Build an encoder that returns its features at strides 1, 2, 4, 8, 16, 32.

    `width` narrows timm's ResNets only (their `channels=` and `stem_width=`); every other encoder
    keeps its own width, and has narrower relatives in its library.

    Args:
        name: A segmentation-models-pytorch encoder, or "tu-" and a timm model.
        weights: Where the weights come from, see `BackboneWeights`.
        output_stride: 8, 16 or 32; deeper features are dilated instead of strided.
        width: Multiplies the channels of a timm ResNet.

    Returns:
        A module with `out_channels` (one number per stride); images -> list of features.

    Raises:
        ValueError: An unknown name or stride, or weights that do not fit.
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
    """Translate to what segmentation-models-pytorch calls `encoder_weights`.

    Args:
        name: The encoder, checked here.
        weights: Where the weights come from; a local path means none from the library.

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
    """Load local weights in torchvision's or timm's naming; a classifier's are left out.

    Args:
        encoder: The encoder to fill, in place.
        weights: A safetensors file; None and "imagenet" leave the encoder as it is.

    Raises:
        ValueError: No such file, not safetensors, or tensors that are missing, left over or of
            another shape (their names are given).
    """
    if weights is None or weights == "imagenet":
        return
    path = Path(weights)
    if not path.is_file():
        raise ValueError(f'backbone_weights must be None, "imagenet" or an existing file: {path}')
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a safetensors file: {error}") from error
    expected = encoder.state_dict()
    if expected and all(key.startswith("model.") for key in expected):
        tensors = {f"model.{key.removeprefix('model.')}": t for key, t in tensors.items()}
    _check_tensors(path, tensors, expected)
    encoder.load_state_dict({key: tensors.get(key, old) for key, old in expected.items()})


def _check_tensors(path: Path, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Compare names and shapes, apart from a classifier's and the counters of BatchNorm."""
    missing = [k for k in wanted if k not in found and not k.endswith("num_batches_tracked")]
    left_over = [
        key
        for key in found
        if key not in wanted and not key.removeprefix("model.").startswith(_HEAD_PREFIXES)
    ]
    reshaped = [
        f"{key} {tuple(found[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in found and found[key].shape != wanted[key].shape
    ]
    problems = {"missing": missing, "not in the backbone": left_over, "other shape": reshaped}
    parts = [f"{what}: {_shorten(keys)}" for what, keys in problems.items() if keys]
    if parts:
        raise ValueError(f"{path} does not fit the backbone; " + "; ".join(parts))


def _shorten(keys: list[str], limit: int = 8) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def _narrow(name: str, width: float) -> dict[str, Any]:
    """Return timm's keywords for a narrower ResNet; none for other encoders."""
    model = name.removeprefix("tu-").split(".")[0]
    if width == 1 or not name.startswith("tu-") or not is_model_in_modules(model, ["resnet"]):
        return {}
    return {
        "channels": tuple(scale_channels(c, width) for c in _RESNET_STAGES),
        "stem_width": scale_channels(32, width),
    }
