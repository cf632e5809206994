"""Finds the image or mask for a line of a list, or for the name of its partner."""

from __future__ import annotations

import difflib
import os
import re
import unicodedata
from collections.abc import Collection
from pathlib import Path, PurePosixPath

from trainables.data.dataset import DataError
from trainables.data.image_names import IMAGE_SUFFIXES, is_image_name


class NamePattern:
    """The position of the name that image and mask share in the stem of a file name.

    Args:
        text: A suffix such as "_mask", or a pattern with {} such as "mask_{}"; "" for the whole
            stem.
    """

    def __init__(self, text: str) -> None:
        self.text = text if "{}" in text else "{}" + text
        before, after = normalize(self.text).split("{}", 1)
        self._expression = re.compile(re.escape(before) + "(.+)" + re.escape(after))

    def shared_name(self, stem: str) -> str | None:
        """Return the part of a stem that image and mask share; None if the pattern does not match.

        Args:
            stem: Path relative to the folder, without suffix.
        """
        path = PurePosixPath(stem)
        match = self._expression.fullmatch(path.name)
        return None if match is None else str(path.parent / match[1])

    def stem_of(self, shared_name: str) -> str:
        """Return the stem of the file with this shared name."""
        path = PurePosixPath(shared_name)
        return str(path.parent / normalize(self.text).replace("{}", path.name))


class FileIndex:
    """The image files below a folder, found by names as people write them.

    Names are compared in one Unicode form (NFC), since systems store "ü" in two forms.

    Args:
        folder: Folder of the files; its subfolders are searched too, except hidden ones.
        hint: Remedy if it is missing, for the error message.

    Attributes:
        folder: Folder of the files.
        by_stem: Files by their path relative to the folder, without suffix and with "/".
        directories: The folder and its subfolders.

    Raises:
        DataError: The folder is missing or contains no image, or two files have the same stem.
    """

    def __init__(self, folder: Path, *, hint: str = "") -> None:
        self.folder = folder
        if not folder.is_dir():
            raise DataError(f"{folder}: folder is missing{hint}")
        self.by_stem: dict[str, Path] = {}
        self._stems: dict[Path, str] = {}
        self._by_last_part: dict[str, list[Path]] = {}
        names, self.directories = _walk(folder)
        for name in names:
            path, stem = folder / name, _stem(normalize(name))
            if stem in self.by_stem:
                raise DataError(
                    f"{path}: has the same stem as {self.by_stem[stem].name}; keep one of them"
                )
            self.by_stem[stem] = path
            self._stems[path] = stem
            self._by_last_part.setdefault(stem.rpartition("/")[2], []).append(path)
        if not self.by_stem:
            raise DataError(f"{folder}: contains no image ({', '.join(IMAGE_SUFFIXES)}){hint}")

    def find(self, text: str, *, root: Path | None = None) -> Path | None:
        """Find the file that a text names, as `find_exact` does or by the end of its path.

        The path may be that of another machine. It must then end with the file's path relative to
        this folder; of several files the one with the longest path is meant. A name without folders
        may also be that of a single file in a subfolder.

        Args:
            text: Name or path in a list.
            root: Another folder that the path may be relative to.
        """
        found = self.find_exact(text, root=root)
        if found is not None:
            return found
        name = _to_posix(text)
        for stem in (name, _stem(name)):
            same = self._by_last_part.get(stem.rpartition("/")[2], [])
            if "/" in stem:
                same = [path for path in same if stem.endswith(f"/{self._stems[path]}")]
                same = sorted(same, key=lambda path: len(self._stems[path]))[-1:]
            if same:
                return same[0] if len(same) == 1 else None
        return None

    def find_exact(self, text: str, *, root: Path | None = None) -> Path | None:
        """Find the file at a path relative to this folder, with or without suffix, or None.

        Args:
            text: Name or path in a list.
            root: Another folder that the path may be relative to.
        """
        name = _to_posix(text)
        for stem in (name, _stem(name)):
            if stem in self.by_stem:
                return self.by_stem[stem]
        for start in () if root is None else (root,):
            prefix = normalize(self.folder.relative_to(start).as_posix()) + "/"
            stem = _stem(name.removeprefix(prefix))
            if name.startswith(prefix) and stem in self.by_stem:
                return self.by_stem[stem]
        if "/" in name and (self.folder / text).is_file():  # also for absolute paths
            return self.folder / text
        return None

    def find_partner(self, stem: str) -> Path | None:
        """Find the file of this stem, or of its last part if only one side has subfolders.

        Args:
            stem: Stem of the mask, derived from the name of an image.
        """
        if stem in self.by_stem:
            return self.by_stem[stem]
        same = self._by_last_part.get(stem.rpartition("/")[2], [])
        is_flat_here = all("/" not in self.stem_of(path) for path in same)
        return same[0] if len(same) == 1 and ("/" not in stem or is_flat_here) else None

    def stem_of(self, path: Path) -> str:
        """Return the path relative to the folder without suffix; for a file elsewhere its stem."""
        known = self._stems.get(path)
        return _stem(normalize(path.name)) if known is None else known

    def names_like(self, stem: str) -> str:
        """Return the names closest to one that was not found, for error messages."""
        close = difflib.get_close_matches(stem, self.by_stem, n=3, cutoff=0.3)
        named = close or sorted(self.by_stem)[:3]
        return ", ".join(repr(self.by_stem[name].name) for name in named)


def normalize(text: str) -> str:
    """Return a name in one Unicode form (NFC)."""
    return unicodedata.normalize("NFC", text)


def guess_patterns(images: Collection[str], masks: Collection[str]) -> tuple[str, str] | None:
    """Guess name patterns that match every image with a mask; None if no simple ones do.

    Args:
        images: Stems of the images.
        masks: Stems of the masks.
    """
    first = min(images)
    for mask in difflib.get_close_matches(first, masks, n=5, cutoff=0.2):
        begin = _num_shared(first, mask)
        end = _num_shared(first[::-1], mask[::-1])
        by_begin = ("{}" + first[begin:], "{}" + mask[begin:])
        by_end = (first[: len(first) - end] + "{}", mask[: len(mask) - end] + "{}")
        for pair in (by_begin, by_end):
            names = [NamePattern(pair[0]).shared_name(stem) for stem in images]
            if all(name and NamePattern(pair[1]).stem_of(name) in masks for name in names):
                return pair
    return None


def _num_shared(first: str, second: str) -> int:
    """Return the length of the common beginning, without a separator at its end."""
    pairs = zip(first, second, strict=False)
    count = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))
    return len(first[:count].rstrip("_-. "))


def _walk(folder: Path) -> tuple[list[str], list[Path]]:
    """Return the sorted names of the images below a folder, with "/", and the folders."""
    names, directories = [], []
    for directory, inner, files in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith((".", "__MACOSX"))]
        directories.append(Path(directory))
        below = os.path.relpath(directory, folder).replace(os.sep, "/")
        prefix = "" if below == "." else f"{below}/"
        names += [prefix + name for name in files if is_image_name(name)]
    return sorted(names), directories


def _to_posix(text: str) -> str:
    """Return a path in a list with "/" between its parts, whichever system it comes from."""
    return normalize(text).replace("\\", "/").removeprefix("./")


def _stem(name: str) -> str:
    lowered = name.lower()
    suffix = next((suffix for suffix in IMAGE_SUFFIXES if lowered.endswith(suffix)), "")
    return name[: len(name) - len(suffix)]
