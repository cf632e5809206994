"""Finds the images and masks that belong to a split of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trainables.data.dataset import DataError
from trainables.data.file_index import FileIndex, guess_patterns
from trainables.data.folder_layout import (
    HASHED_SPLITS,
    SPLIT_NAMES,
    FolderLayout,
    choose_val,
    is_like_split,
)
from trainables.data.image_files import ImagePair
from trainables.data.image_names import IMAGE_SUFFIXES
from trainables.data.text_files import read_lines, warn_of_repeats

_IS_PAIR = re.compile(rf"({'|'.join(map(re.escape, IMAGE_SUFFIXES))})[\s,;]", re.IGNORECASE)


class FoundPairs(NamedTuple):
    """The samples of a split.

    Attributes:
        pairs: Image and mask of each sample.
        sources: Lists and folders that name the files.
        warnings: Warnings about the lists.
    """

    pairs: list[ImagePair]
    sources: tuple[Path, ...]
    warnings: tuple[str, ...]


class _Named(NamedTuple):
    """An image of the split, with the mask that its line names, if any."""

    image: Path
    mask: Path | None = None


class _Files(NamedTuple):
    """The files below the folders of a split.

    Attributes:
        images: Images.
        masks: Masks.
        own: Name that an image shares with its mask, by the stem of the image.
    """

    images: FileIndex
    masks: FileIndex
    own: dict[str, str]


def find_pairs(layout: FolderLayout, split: str) -> FoundPairs:
    """Find the samples of a split by its list, its folder, or a hash of their names.

    Raises:
        DataError: A folder, list, image or mask is missing, or the split would be empty.
    """
    files = _open_folders(layout, split)
    named = _name_images(layout, split, files)
    listed = layout.list_file(split)
    if not named:
        raise DataError(
            f"{layout.root}: split {split!r} has no sample; name its images in {listed.name}"
        )
    unique = list(dict.fromkeys(named))
    warnings = warn_of_repeats(listed.name, named, lambda item: files.images.stem_of(item.image))
    pairs = [_join(layout, item, files) for item in unique]
    _check_own_masks(pairs)
    lists = {path for name in (split, *SPLIT_NAMES) if (path := layout.list_file(name)).is_file()}
    folders = (*files.images.directories, *files.masks.directories)
    sources = (layout.root, listed.parent, *sorted(lists), *folders)
    return FoundPairs(pairs, sources, tuple(warnings))


def _open_folders(layout: FolderLayout, split: str) -> _Files:
    folders = (layout.image_folder(split), layout.mask_folder(split))
    images = FileIndex(folders[0], hint=layout.advise(folders[0], "images"))
    masks = FileIndex(folders[1], hint=layout.advise(folders[1], "masks"))
    own = _images_of_pattern(layout, images, has_masks=folders[0] == folders[1])
    return _Files(images, masks, own)


def _name_images(layout: FolderLayout, split: str, files: _Files) -> list[_Named]:
    """Return the images of a split, in order."""
    listed = layout.list_file(split)
    if listed.is_file():
        return list(_read_list(layout, listed, files))
    return [_Named(files.images.by_stem[stem]) for stem in _unlisted(layout, split, files)]


def _images_of_pattern(
    layout: FolderLayout, images: FileIndex, *, has_masks: bool
) -> dict[str, str]:
    """Map the stem of each image to the name that it shares with its mask."""
    pattern, mask_pattern = layout.image_pattern, layout.mask_pattern
    shared = {
        stem: name
        for stem in images.by_stem
        if (name := pattern.shared_name(stem)) is not None
        and not (has_masks and layout.mask_suffix and mask_pattern.shared_name(stem))
    }
    if not shared:
        raise DataError(
            f"{images.folder}: holds no image named {pattern.text!r} "
            f"(--pipeline.data.image-suffix {layout.image_suffix!r}), but for example "
            f"{images.names_like('')}"
        )
    return shared


def _unlisted(layout: FolderLayout, split: str, files: _Files) -> list[str]:
    """Return the stems of a split that has no list."""
    listed, stems = layout.list_file(split), sorted(files.own)
    if layout.has_lists:
        raise DataError(
            f"{listed}: list of split {split!r} is missing, but other splits have lists"
        )
    if layout.has_split_folders:
        return stems
    if split not in HASHED_SPLITS:
        raise DataError(
            f"{listed}: list of split {split!r} is missing; without lists the splits are "
            f"{' and '.join(HASHED_SPLITS)}"
        )
    _check_for_split_folders(layout, files)
    test = layout.list_file("test")
    if test.is_file():
        held_out = set(_find_held_out(layout, test, files))
        stems = [stem for stem in stems if files.images.by_stem[stem] not in held_out]
    val = choose_val(stems)
    return [stem for stem in stems if (stem in val) == (split == "val")]


def _find_held_out(layout: FolderLayout, listed: Path, files: _Files) -> Iterator[Path]:
    """Yield the images that a test list names; other lines may name images that are elsewhere."""
    for line in read_lines(listed, layout.encoding):
        named = _read_line(layout, line, files)
        if named is not None:
            yield named.image
            continue
        for pair in _IS_PAIR.finditer(line):  # of which only the mask may be missing
            image = _find_image(layout, files.images, line[: pair.end(1)])
            if image is not None:
                yield image


def _check_for_split_folders(layout: FolderLayout, files: _Files) -> None:
    """Raise an error for folders that look like splits, which the hash would mix."""
    folders = {part for stem in files.own for part in stem.split("/")[:-1]}
    alike = sorted(folder for folder in folders if is_like_split(folder))
    if alike:
        lists = " and ".join(layout.list_file(split).name for split in HASHED_SPLITS)
        raise DataError(
            f"{files.images.folder}: has folders that look like splits ({', '.join(alike)}), but "
            f"not one each for {' and '.join(HASHED_SPLITS)} directly below; rename them, or name "
            f"the images of each split in {lists}"
        )


def _read_list(layout: FolderLayout, listed: Path, files: _Files) -> Iterator[_Named]:
    """Read lines that name an image, or an image and a mask."""
    for number, line in enumerate(read_lines(listed, layout.encoding), start=1):
        if not line:
            continue
        named = _read_line(layout, line, files)
        if named is None:
            or_mask = f" or {files.masks.folder} no such mask" if _IS_PAIR.search(line) else ""
            raise DataError(
                f"{listed}: names {line!r} in line {number}, but {files.images.folder} has no such "
                f"image (it contains {files.images.names_like(line)}){or_mask}; a line must be the "
                "name of an image, or the paths of an image and of its mask"
            )
        yield named


def _read_line(layout: FolderLayout, line: str, files: _Files) -> _Named | None:
    """Return what a line names; paths of other machines come last, because they are vague."""
    image = _find_image(layout, files.images, line, is_exact=True)
    if image is None:
        pair = _find_both(layout, line, files)
        if pair is not None or _IS_PAIR.search(line):
            return pair
        image = _find_image(layout, files.images, line)
    return None if image is None else _Named(image)


def _find_image(
    layout: FolderLayout, images: FileIndex, text: str, *, is_exact: bool = False
) -> Path | None:
    find = images.find_exact if is_exact else images.find
    found = find(text, root=layout.root)
    if found is None and layout.image_suffix:  # the list may name what image and mask share
        found = find(layout.image_pattern.stem_of(text))
    return found


def _find_both(layout: FolderLayout, line: str, files: _Files) -> _Named | None:
    """Split a line at the space, comma or semicolon between an image and a mask."""
    for place, character in enumerate(line):
        if character not in " \t,;":
            continue
        image = _find_image(layout, files.images, line[:place].strip())
        mask = files.masks.find(line[place + 1 :].strip(), root=layout.root)
        if image is not None and mask is not None:
            return _Named(image, mask)
    return None


def _join(layout: FolderLayout, named: _Named, files: _Files) -> ImagePair:
    images, masks, own = files
    stem = images.stem_of(named.image)
    if named.mask is not None:
        return ImagePair(stem, named.image, named.mask)
    shared = own.get(stem)
    wanted = stem if shared is None else layout.mask_pattern.stem_of(shared)
    mask = masks.find_partner(wanted)
    if mask is not None:
        return ImagePair(stem, named.image, mask)
    remedy = ""
    guessed = guess_patterns(list(images.by_stem), list(masks.by_stem))
    if guessed is not None:
        flags = [
            f"--pipeline.data.{kind}-suffix {pattern.removeprefix('{}')}"
            for kind, pattern in zip(("image", "mask"), guessed, strict=True)
            if pattern != "{}"
        ]
        remedy = f"; images and masks match with {' '.join(flags)}" if flags else ""
    raise DataError(
        f"{named.image}: has no mask; expected {masks.folder / wanted}.png; {masks.folder} holds "
        f"for example {masks.names_like(wanted)}{remedy}"
    )


def _check_own_masks(pairs: list[ImagePair]) -> None:
    """Raise an error for a mask that two images share, because one of them lacks its own."""
    users: dict[Path, Path] = {}
    for pair in pairs:
        other = users.setdefault(pair.mask_path, pair.image_path)
        if other != pair.image_path:
            raise DataError(
                f"{pair.mask_path}: is the mask of both {other} and {pair.image_path}; give each "
                "image its own mask, in folders like those of the images, or by pairs in the lists"
            )


def find_images_of_all_splits(layout: FolderLayout) -> tuple[Path, ...]:
    """Find the images of all splits, from which one range of values is chosen."""
    paths: set[Path] = set()
    opened: dict[tuple[Path, Path], _Files] = {}
    for split in SPLIT_NAMES:
        folders = (layout.image_folder(split), layout.mask_folder(split))
        try:
            if folders not in opened:
                opened[folders] = _open_folders(layout, split)
            paths |= {item.image for item in _name_images(layout, split, opened[folders])}
        except DataError:  # it is raised again when that split is opened
            continue
    return tuple(sorted(paths))
