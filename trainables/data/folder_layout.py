"""Names of the folders, lists and files of a data set."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from trainables.data.dataset import DataError
from trainables.data.file_index import NamePattern

HASHED_SPLITS = ("train", "val")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
"""Usual names of each split in folders and lists."""
VAL_PERCENT = 20
_SPLIT = "{split}"
_LIKE_SPLIT = re.compile(
    rf"({'|'.join(name for names in SPLIT_NAMES.values() for name in names)})[\W\d_]*",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FolderLayout:
    """Names below the root of a data set; see `FolderDataset` for the fields.

    Attributes:
        root: Folder of the data.
        images: Folder of the images; may contain {split}.
        masks: Folder of the masks; may contain {split}.
        lists: Name of a split's list, with {} for the split.
        image_suffix: Suffix or pattern of an image's stem.
        mask_suffix: Suffix or pattern of a mask's stem.
        encoding: Encoding of lists without a byte order mark.

    Raises:
        DataError: ``lists`` has no placeholder {} for the split.
    """

    root: Path
    images: str = "images"
    masks: str = "masks"
    lists: str = "{}.txt"
    image_suffix: str = ""
    mask_suffix: str = ""
    encoding: str = "utf-8"

    def __post_init__(self) -> None:
        """Check that a list's name depends on the split."""
        if "{}" not in self.lists:
            raise DataError(
                f"--pipeline.data.lists must contain {{}} for the split, as in 'lists/{{}}.txt'; "
                f"got {self.lists!r}"
            )

    @property
    def image_pattern(self) -> NamePattern:
        """Pattern of an image's stem."""
        return NamePattern(self.image_suffix)

    @property
    def mask_pattern(self) -> NamePattern:
        """Pattern of a mask's stem."""
        return NamePattern(self.mask_suffix)

    def list_file(self, split: str) -> Path:
        """Return the path of the list of a split, whether it exists or not."""
        plain, *others = [self.root / self.lists.replace("{}", name) for name in _spell(split)]
        if plain.is_file() or self._has_only_folders:  # a training.txt may then be a log
            return plain
        return next((path for path in others if path.is_file()), plain)

    @property
    def _has_only_folders(self) -> bool:
        """Whether the splits have folders, and neither train.txt nor val.txt exists."""
        plain = [self.root / self.lists.replace("{}", split) for split in HASHED_SPLITS]
        return self._has_inner_folders and not any(path.is_file() for path in plain)

    @property
    def _has_inner_folders(self) -> bool:
        """Whether there are folders of images for "train" and "val"."""
        return all(self._split_folder(self.images, split).is_dir() for split in HASHED_SPLITS)

    @property
    def has_lists(self) -> bool:
        """Whether "train" or "val" has a list."""
        return any(self.list_file(split).is_file() for split in HASHED_SPLITS)

    @property
    def has_split_folders(self) -> bool:
        """Whether each split has its own folders, by {split} in the name or below images/."""
        if _SPLIT in self.images:
            return True
        return not self.has_lists and self._has_inner_folders

    def image_folder(self, split: str) -> Path:
        """Return the folder of a split's images."""
        return self._folder(self.images, split)

    def mask_folder(self, split: str) -> Path:
        """Return the folder of a split's masks."""
        return self._folder(self.masks, split)

    def has_split(self, split: str) -> bool:
        """Return whether the split has a list or folder."""
        if self.list_file(split).is_file():
            return True
        if self.has_split_folders:
            return self.image_folder(split).is_dir()
        return split in HASHED_SPLITS and not self.has_lists

    def advise(self, folder: Path, flag: str) -> str:
        """Return the remedy for a missing folder, with the names of the existing folders."""
        if folder.is_dir() or not self.root.is_dir():
            return f" ({self.root})"
        there = sorted(path.name for path in self.root.iterdir() if path.is_dir())
        named = ", ".join(f"{name}/" for name in there if not name.startswith(".")) or "no folder"
        return (
            f"; the folder of --data-root must contain images/, masks/ and classes.txt; "
            f"{self.root} contains {named}: choose one by --pipeline.data.{flag} NAME"
        )

    def _folder(self, name: str, split: str) -> Path:
        inner = self._split_folder(name, split)
        if _SPLIT in name or (self.has_split_folders and (name == self.images or inner.is_dir())):
            return inner
        return self.root / name

    def _split_folder(self, name: str, split: str) -> Path:
        """Return the folder of a split: below the named one, or at {split} in its name."""
        pattern = name if _SPLIT in name else str(Path(name, _SPLIT))
        paths = [self.root / pattern.replace(_SPLIT, folder) for folder in _spell(split)]
        return next((path for path in paths if path.is_dir()), paths[0])


def is_like_split(folder: str) -> bool:
    """Return whether a folder is named like a split or part of one: "Training", "val2017"."""
    return _LIKE_SPLIT.fullmatch(folder) is not None


def _spell(split: str) -> list[str]:
    """Return the usual names of a split in folders and lists, its own name first."""
    names = SPLIT_NAMES.get(split, ())
    cases = (str.lower, str.capitalize, str.upper)
    return [split, *(change(name) for name in names for change in cases)]


def choose_val(stems: Sequence[str]) -> set[str]:
    """Choose about 20 % of the samples for validation, if no lists or folders do.

    The choice depends only on the hash of each stem, except that neither split is left empty if
    there are at least two samples.

    Args:
        stems: Stems of all images.

    Returns:
        The chosen stems, the same on every machine.
    """
    ranks = {stem: _hash(stem) for stem in stems}
    chosen = {stem for stem, rank in ranks.items() if rank % 100 < VAL_PERCENT}
    if len(stems) < 2:
        return chosen
    order = sorted(stems, key=lambda stem: (ranks[stem] % 100, stem))
    return (chosen or set(order[:1])) - (set(order[-1:]) if len(chosen) == len(stems) else set())


def _hash(stem: str) -> int:
    return int.from_bytes(hashlib.sha256(stem.encode()).digest()[:4], "big")
