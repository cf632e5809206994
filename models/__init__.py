"""What a network is: definitions, pruning, cost, latency, checkpoints."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from models.blocks.cpu_convolutions import use_cpu_convolutions
from models.foreign import ForeignNetwork, create_foreign
from models.network import SegmentationNetwork
from models.networks.asymmetric_pyramid import AsymmetricPyramid
from models.networks.bisenet import BiSeNet
from models.networks.bisenetv2 import BiSeNetV2
from models.networks.cgnet import CGNet
from models.networks.dabnet import DABNet
from models.networks.ddrnet import DDRNet
from models.networks.deeplabv3plus import DeepLabV3Plus
from models.networks.dfanet import DFANet
from models.networks.dual_branch import DualBranch
from models.networks.edanet import EDANet
from models.networks.enet import ENet
from models.networks.erfnet import ERFNet
from models.networks.espnet import ESPNet
from models.networks.espnetv2 import ESPNetV2
from models.networks.fast_scnn import FastSCNN
from models.networks.icnet import ICNet
from models.networks.lednet import LEDNet
from models.networks.lraspp import LRASPP
from models.networks.mscfnet import MSCFNet
from models.networks.ndnet import NDNet
from models.networks.pidnet import PIDNet
from models.networks.pp_liteseg import PPLiteSeg
from models.networks.pspnet import PSPNet
from models.networks.regseg import RegSeg
from models.networks.segnet import SegNet
from models.networks.stdc import STDC
from models.networks.swiftnet import SwiftNet
from models.networks.tbfenet import TBFENet
from models.output import WithAuxiliary
from models.resolving import canonical_name, find_factory, is_foreign, is_library

MODELS: dict[str, Callable[..., SegmentationNetwork]] = {
    "dual_branch": DualBranch,
    "asymmetric_pyramid": AsymmetricPyramid,
    "bisenet_resnet18": BiSeNet,
    "bisenetv2": BiSeNetV2,
    "cgnet": CGNet,
    "dabnet": DABNet,
    "ddrnet23_slim": DDRNet,
    "deeplabv3plus": DeepLabV3Plus,
    "dfanet": DFANet,
    "edanet": EDANet,
    "enet": ENet,
    "erfnet": ERFNet,
    "espnet": ESPNet,
    "espnetv2": ESPNetV2,
    "fast_scnn": FastSCNN,
    "icnet_resnet50": ICNet,
    "lednet": LEDNet,
    "lraspp_mobilenet_v3_large": LRASPP,
    "mscfnet": MSCFNet,
    "ndnet": NDNet,
    "pidnet_s": PIDNet,
    "pp_liteseg_t": PPLiteSeg,
    "pspnet_resnet101": partial(PSPNet, backbone="tu-resnet101"),
    "pspnet_resnet18": PSPNet,
    "regseg": RegSeg,
    "segnet": SegNet,
    "stdc1": STDC,
    "swiftnet_resnet18": SwiftNet,
    "tbfenet": TBFENet,
}

__all__ = [
    "LRASPP",
    "MODELS",
    "AsymmetricPyramid",
    "BiSeNet",
    "BiSeNetV2",
    "CGNet",
    "DABNet",
    "DDRNet",
    "DFANet",
    "DeepLabV3Plus",
    "DualBranch",
    "EDANet",
    "ENet",
    "ERFNet",
    "ESPNet",
    "ESPNetV2",
    "FastSCNN",
    "ForeignNetwork",
    "ICNet",
    "LEDNet",
    "MSCFNet",
    "NDNet",
    "PIDNet",
    "PPLiteSeg",
    "PSPNet",
    "RegSeg",
    "SegNet",
    "SegmentationNetwork",
    "SwiftNet",
    "TBFENet",
    "WithAuxiliary",
    "check_name",
    "create_model",
]


def create_model(
    name: str,
    num_classes: int = 19,
    *,
    outputs: Sequence[int] | None = None,
    size_multiple: int | None = None,
    **kwargs: Any,
) -> SegmentationNetwork:
    """Build a network by name, in train mode, on the current default device.

    Args:
        name: A key of `MODELS`; "smp:Unet" and every other architecture of
            segmentation-models-pytorch; "torchvision:deeplabv3_resnet50" and the others of
            torchvision; or your own "package.module:factory" or "path/to/file.py:factory", which
            returns any `nn.Module` (see `models.foreign.ForeignNetwork`).
        num_classes: Number of outputs of the network, at least 2. A factory of yours receives it as
            `num_classes`, `classes` or `n_classes`, whichever it takes.
        outputs: Index of the network's output for each class of the data, when the network has more
            outputs than the data has classes or another order. None: output c is class c.
        size_multiple: Multiple that the image sides must have, see `models.foreign.ForeignNetwork`.
            None: found by trying. Not for `MODELS`.
        **kwargs: Keywords of the network's class. Networks of `MODELS` that have a backbone take
            `backbone_weights` (None: random; "imagenet": downloaded; else the path of a safetensors
            file).

    Returns:
        The network: (N, 3, H, W) float, normalised, H and W at least 64 -> (N, num_classes, H, W)
        logits, and `WithAuxiliary` in train mode if it was built with auxiliary heads.

    Raises:
        ValueError: The name or a keyword is unknown, or a value is not allowed.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, got {num_classes!r}")
    if outputs is not None and not all(0 <= i < num_classes for i in outputs):
        raise ValueError(f"each of outputs must be in 0..{num_classes - 1}, got {tuple(outputs)}")
    if is_foreign(name):
        network = create_foreign(name, num_classes, kwargs, size_multiple=size_multiple)
    else:
        network = _create_own(name, num_classes, kwargs)
    use_cpu_convolutions(network)
    if outputs is not None:
        network.outputs = tuple(outputs)
        network.kwargs = {**network.kwargs, "outputs": list(outputs)}
    return network


def check_name(name: str) -> None:
    """Raise an error if `create_model` does not know the name; user code is not imported.

    Raises:
        ValueError: The name is neither a key of `MODELS` nor the name of a foreign network.
    """
    if is_foreign(name):
        canonical_name(name)
        if is_library(name):
            find_factory(name)
    elif name not in MODELS:
        raise ValueError(
            f"model must be one of {', '.join(sorted(MODELS))}, smp:ARCHITECTURE, "
            f"torchvision:NAME, package.module:factory or path/to/file.py:factory; got {name!r}"
        )


def _create_own(name: str, num_classes: int, kwargs: dict[str, Any]) -> SegmentationNetwork:
    check_name(name)
    constructor = MODELS[name]
    signature = inspect.signature(constructor)
    unknown = sorted(set(kwargs) - set(signature.parameters))
    if unknown:
        allowed = ", ".join(p for p in signature.parameters if p != "num_classes")
        keywords = f"the keywords {allowed}" if allowed else "no keywords"
        raise ValueError(f"{name} takes {keywords}; got {', '.join(unknown)}")
    bound = signature.bind(num_classes=num_classes, **kwargs)
    bound.apply_defaults()
    network = constructor(*bound.args, **bound.kwargs)
    network.name = name
    network.kwargs = {k: v for k, v in bound.arguments.items() if k != "backbone_weights"}
    return network
