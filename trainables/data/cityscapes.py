"""Cityscapes in its official layout, labelIds mapped to the 19 train ids."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from trainables.data.dataset import IGNORE_INDEX, DataError
from trainables.data.image_files import ImagePair, ImagePairDataset
from trainables.data.image_names import require_root

CITYSCAPES_CLASSES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign",
    "vegetation", "terrain", "sky", "person", "rider", "car", "truck", "bus", "train",
    "motorcycle", "bicycle",
)  # fmt: skip
# Source: cityscapesScripts, helpers/labels.py.
CITYSCAPES_COLOURS = (
    (128, 64, 128), (244, 35, 232), (70, 70, 70), (102, 102, 156), (190, 153, 153),
    (153, 153, 153), (250, 170, 30), (220, 220, 0), (107, 142, 35), (152, 251, 152),
    (70, 130, 180), (220, 20, 60), (255, 0, 0), (0, 0, 142), (0, 0, 70), (0, 60, 100), (0, 80, 100),
    (0, 0, 230), (119, 11, 32),
)  # fmt: skip
# Source: the same file. labelId of each train id, in order; labelIds go up to 33.
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
NUM_LABEL_IDS = 34
SPLITS = ("train", "val", "test", "train_extra")
_IMAGE_SUFFIX, _MASK_SUFFIX = "_leftImg8bit.png", "_gtFine_labelIds.png"


class Cityscapes(ImagePairDataset):
    """Street scenes of 50 cities, 19 classes, 1024 x 2048.

    Source: Cordts et al. 2016, https://www.cityscapes-dataset.com; labels as in cityscapesScripts.

    Args:
        root: Folder that contains ``leftImg8bit/`` and ``gtFine/``.
        split: "train" or "val" ("test" has dummy labels only).
        size: (height, width) to scale to, such as (512, 1024); None keeps 1024 x 2048.

    Raises:
        DataError: A folder, an image or a mask is missing.
        ValueError: The split is unknown.
    """

    name: ClassVar[str] = "cityscapes"

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(
                f"split of cityscapes must be one of {', '.join(SPLITS)}; got {split!r}"
            )
        folder = require_root(self.name, root, advice="; it must hold leftImg8bit/ and gtFine/")
        train_ids = dict.fromkeys(range(NUM_LABEL_IDS), IGNORE_INDEX)
        train_ids |= {label: train_id for train_id, label in enumerate(LABEL_IDS)}
        pairs = _find_pairs(folder, split)
        cities = sorted({path.parent for pair in pairs for path in pair[1:]})
        super().__init__(
            pairs,
            CITYSCAPES_CLASSES,
            split=split,
            train_ids=train_ids,
            size=size,
            colours=CITYSCAPES_COLOURS,
            sources=[*sorted({city.parent for city in cities}), *cities],
        )


def _find_pairs(root: Path, split: str) -> list[ImagePair]:
    images, masks = root / "leftImg8bit" / split, root / "gtFine" / split
    for folder in (images, masks):
        if not folder.is_dir():
            raise DataError(
                f"{folder}: folder is missing; --data-root must hold leftImg8bit/{split}/ "
                f"and gtFine/{split}/ as the official archives do"
            )
    paths = sorted(images.glob(f"*/*{_IMAGE_SUFFIX}"))
    if not paths:
        raise DataError(f"{images}: contains no <city>/*{_IMAGE_SUFFIX}")
    pairs = []
    for path in paths:
        stem = path.name.removesuffix(_IMAGE_SUFFIX)
        pair = ImagePair(stem, path, masks / path.parent.name / f"{stem}{_MASK_SUFFIX}")
        if not pair.mask_path.is_file():
            raise DataError(f"{path}: has no mask; expected {pair.mask_path}")
        pairs.append(pair)
    return pairs
