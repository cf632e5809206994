"""Any data set given as a folder of images, a folder of masks and a list of classes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar

from trainables.data.dataset import IGNORE_INDEX, DataError
from trainables.data.image_files import ImagePair, ImagePairDataset, list_images, require_root

HASHED_SPLITS = ("train", "val")
VAL_PERCENT = 20
_ADVICE = "; it must hold images/, masks/ and classes.txt"


class FolderDataset(ImagePairDataset):
    """Images and masks that share a stem, and ``classes.txt`` with one class name per line.

    The number of a line, from 0, is the label in the masks; 255 is ignored. ``<split>.txt``, one
    stem per line, says which samples belong to a split. Where there is no such list at all, a hash
    of the stem puts about 80 of 100 samples into "train" and the others into "val", the same on
    every machine.

    Args:
        root: Folder that holds ``images/``, ``masks/`` and ``classes.txt``.
        split: "train", "val", or any split that has a list.
        size: (height, width) to scale to; None keeps the size of the files.

    Raises:
        DataError: A folder, list, image or mask is missing, or the split would be empty.
    """

    name: ClassVar[str] = "folder"

    def __init__(
        self,
        root: str | Path | None = None,
        split: str = "train",
        *,
        size: tuple[int, int] | None = None,
    ) -> None:
        folder = require_root(self.name, root, advice=_ADVICE)
        classes = _read_classes(folder / "classes.txt")
        train_ids = {label: label for label in range(len(classes))} | {IGNORE_INDEX: IGNORE_INDEX}
        super().__init__(
            _find_pairs(folder, split), classes, split=split, train_ids=train_ids, size=size
        )


def _read_classes(path: Path) -> list[str]:
    if not path.is_file():
        raise DataError(f"{path}: file is missing; it names one class per line")
    names = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    while names and not names[-1]:
        names.pop()
    if not 1 <= len(names) <= IGNORE_INDEX or not all(names):
        raise DataError(
            f"{path}: must name 1 to {IGNORE_INDEX} classes, one per line, none empty; "
            f"got {names!r}"
        )
    if len(set(names)) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise DataError(f"{path}: names a class twice: {', '.join(twice)}")
    return names


def _find_pairs(root: Path, split: str) -> list[ImagePair]:
    hint = f"; --data-root names a folder that holds images/, masks/ and classes.txt ({root})"
    images = _by_stem(list_images(root / "images", hint=hint))
    masks = _by_stem(list_images(root / "masks", hint=hint))
    pairs = []
    for stem in _stems_of_split(root, split, sorted(images)):
        if stem not in images:
            raise DataError(
                f"{root / f'{split}.txt'}: names {stem!r}, but {root / 'images'} has no such image"
            )
        if stem not in masks:
            raise DataError(f"{images[stem]}: has no mask; expected {root / 'masks' / stem}.png")
        pairs.append(ImagePair(stem, images[stem], masks[stem]))
    return pairs


def _by_stem(paths: list[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if path.stem in found:
            raise DataError(
                f"{path}: has the same stem as {found[path.stem].name}; keep one of them"
            )
        found[path.stem] = path
    return found


def _stems_of_split(root: Path, split: str, stems: list[str]) -> list[str]:
    listed = root / f"{split}.txt"
    if listed.is_file():
        chosen = listed.read_text(encoding="utf-8").split()
    elif any((root / f"{other}.txt").is_file() for other in HASHED_SPLITS):
        raise DataError(f"{listed}: list of split {split!r} is missing, though others are there")
    elif split not in HASHED_SPLITS:
        raise DataError(
            f"{listed}: list of split {split!r} is missing; without lists the splits are "
            f"{' and '.join(HASHED_SPLITS)}"
        )
    else:
        chosen = [stem for stem in stems if _is_val(stem) == (split == "val")]
    if not chosen:
        raise DataError(f"{root}: split {split!r} has no sample; name its stems in {listed.name}")
    return chosen


def _is_val(stem: str) -> bool:
    number = int.from_bytes(hashlib.sha256(stem.encode()).digest()[:4], "big")
    return number % 100 < VAL_PERCENT
