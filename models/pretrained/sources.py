"""The inputs that third-party networks expect, and the meaning of their classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from models import create_model
from models.network import SegmentationNetwork
from models.normalization import IMAGENET, Normalization

_SEGNET_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
_CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
_CITYSCAPES_TO_CAMVID = (3, 4, 1, 1, 7, 2, 6, 6, 5, 5, 0, 9, 10, 8, 8, 8, 8, 10, 10, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class PretrainedSource:
    """Everything that is needed to evaluate third-party weights, except the file.

    Attributes:
        model: A key of `models.MODELS`.
        kwargs: Keywords of `models.create_model`, without the number of classes.
        naming: A key of `models.pretrained.NAMINGS`.
        classes: Names of the outputs' classes, in order.
        normalization: Normalisation of the input.
        size: Height and width of its training images.
        class_maps: For each data set, its class for each output, or None if it has none.
        citation: Source and licence of the weights.
    """

    model: str
    naming: str
    classes: tuple[str, ...]
    normalization: Normalization
    size: tuple[int, int]
    citation: str
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    class_maps: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)

    def create_model(self) -> SegmentationNetwork:
        """Build the network, with random weights, for these classes."""
        return create_model(self.model, len(self.classes), **self.kwargs)


def merge_classes(logits: Tensor, class_map: Sequence[int | None], num_classes: int) -> Tensor:
    """Sum the probabilities of classes that another data set does not distinguish.

    Args:
        logits: Logits, (N, C, H, W), unnormalised.
        class_map: Class of the other data set for each of the C classes, or None.
        num_classes: Number of classes of the other data set.

    Returns:
        (N, num_classes, H, W) probabilities, which sum to 1 if no class is None.

    Raises:
        ValueError: The map does not have C entries.
    """
    if len(class_map) != logits.shape[1]:
        raise ValueError(f"class_map has {len(class_map)} entries for {logits.shape[1]} classes")
    kept = [i for i, target in enumerate(class_map) if target is not None]
    targets = torch.tensor([t for t in class_map if t is not None], device=logits.device)
    probabilities = logits.softmax(dim=1)[:, kept]
    merged = torch.zeros_like(probabilities[:, :1]).repeat(1, num_classes, 1, 1)
    return merged.index_add_(1, targets, probabilities)


SOURCES: dict[str, PretrainedSource] = {
    "camvid_espnet": PretrainedSource(
        model="espnet",
        naming="sacmehta",
        classes=(*_SEGNET_CLASSES, "void"),
        normalization=Normalization(
            mean=(110.33102643, 108.40886315, 105.03319369),
            # The authors divide by the standard deviation and then again by 255.
            std=(72.12571015 * 255, 72.69074534 * 255, 69.90434816 * 255),
            scale=1.0,
            channel_order="bgr",
        ),
        size=(360, 480),
        citation="sacmehta/ESPNet, espnet_p_2_q_8_camvid.pth, MIT; CamVid train",
    ),
    "camvid_espnet_distilled": PretrainedSource(
        model="espnet",
        naming="sacmehta",
        classes=_SEGNET_CLASSES,
        normalization=Normalization(
            mean=(73.18188461, 82.93553322, 72.41519599),
            std=(45.3199, 46.1528, 44.9148),
            scale=1.0,
            channel_order="bgr",
        ),
        size=(360, 480),
        citation="irfanICMLL/structure_knowledge_distillation, branch cvpr_19, MIT; CamVid train "
        "and val, so only its test split tells anything",
    ),
} | {
    f"cityscapes_espnetv2_{scale}": PretrainedSource(
        model="espnetv2",
        kwargs={"scale": scale},
        naming="sacmehta",
        classes=(*_CITYSCAPES_CLASSES, "background"),
        normalization=IMAGENET,
        size=(512, 1024),
        class_maps={"camvid": _CITYSCAPES_TO_CAMVID},
        citation=f"sacmehta/EdgeNets, espnetv2_s_{scale}_city_1024x512.pth, MIT; Cityscapes train",
    )
    for scale in (0.5, 1.0, 1.5, 2.0)
}
"""Known sources of weights, by name; write a `PretrainedSource` for other files."""
