"""Loads third-party weights from a file, a URL or tensors into our networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.models import get_weight

from models.blocks.backbones import load_backbone_tensors
from models.files.weight_files import load_strictly, read_tensors
from models.network import SegmentationNetwork, name_output_layers
from models.pretrained.espnets import convert_espnet, convert_espnetv2
from models.pretrained.mmsegmentation import convert_bisenetv2, convert_pspnet
from models.pretrained.renaming import Tensors, drop, rename

Weights = str | Path | Mapping[str, Any]
"""Path of a safetensors file, "https://..." URL of a .pth file, "torchvision:" and an entry of
torchvision's registry, or tensors by name (or a checkpoint with these as its `state_dict`).
"""


def _convert_lraspp(tensors: Tensors) -> Tensors:
    return rename(tensors, ((r"^", "network."),))


NAMINGS: dict[str, dict[str, Callable[[Tensors], Tensors]]] = {
    "segfront": {},
    "sacmehta": {"espnet": convert_espnet, "espnetv2": convert_espnetv2},
    "mmsegmentation": {
        "bisenetv2": convert_bisenetv2,
        "pspnet_resnet18": convert_pspnet,
        "pspnet_resnet101": convert_pspnet,
    },
    "torchvision": {"lraspp_mobilenet_v3_large": _convert_lraspp},
    "timm": {},
}
"""Conversion of tensor names, by naming and network. For networks without an entry, "segfront"
loads the tensors as they are, and "torchvision" and "timm" load the backbone.
"""


def load_pretrained(
    model: SegmentationNetwork, weights: Weights, *, naming: str, with_classes: bool = True
) -> None:
    """Load third-party weights into a network or its backbone; every tensor must match.

    Weights of auxiliary heads that the network does not have are ignored.

    Args:
        model: Unpruned network from `models.create_model`; unchanged if an error is raised.
        weights: The weights, see `Weights`.
        naming: Naming scheme of the tensors, a key of `NAMINGS`.
        with_classes: Whether to load the class layers; if not, they keep their initial weights.

    Raises:
        ValueError: The naming is unknown, has no weights for this network, the file does not exist,
            or tensors are missing, unexpected or of another shape (the message names them).
    """
    if naming not in NAMINGS:
        raise ValueError(f"naming must be one of {', '.join(NAMINGS)}; got {naming!r}")
    convert = NAMINGS[naming].get(model.name)
    source = "the given tensors" if isinstance(weights, Mapping) else str(weights)
    backbone = model.get_backbone()
    if convert is None and naming in ("torchvision", "timm") and backbone is not None:
        load_backbone_tensors(backbone, _read(weights), source=source)
        return
    if convert is None and naming != "segfront":
        known = ", ".join(NAMINGS[naming]) or "networks with a backbone"
        raise ValueError(f"{naming} has weights for {known}; got the network {model.name!r}")
    tensors = _read(weights)
    if convert is not None:
        tensors = convert(tensors)
    own = model.state_dict()
    if not any(key.startswith("auxiliary_head") for key in own):
        tensors = drop(tensors, (r"^auxiliary_head",))
    if not with_classes:
        outputs = name_output_layers(model)
        tensors |= {key: own[key] for key in own if key.rpartition(".")[0] in outputs}
    load_strictly(model, tensors, source=source, target=model.name or "network")


def _read(weights: Weights) -> Tensors:
    """Read the tensors, without the prefix that `nn.DataParallel` adds."""
    content: Mapping[str, Any]
    if isinstance(weights, Mapping):
        content = weights
    elif str(weights).startswith("torchvision:"):
        entry = get_weight(str(weights).removeprefix("torchvision:"))
        content = entry.get_state_dict(check_hash=True, weights_only=True)
    elif str(weights).startswith("https://"):
        content = torch.hub.load_state_dict_from_url(
            str(weights), map_location="cpu", check_hash=True, weights_only=True
        )
    else:
        content = read_tensors(str(weights))
    if isinstance(nested := content.get("state_dict"), Mapping):
        content = nested
    odd = [name for name, value in content.items() if not isinstance(value, Tensor)]
    if odd:
        raise ValueError(f"weights must be tensors by name; {odd[:5]} are not")
    return rename(content, ((r"^module\.", ""),))
