"""Finds the images and masks that belong to a split of a folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trainables.data.dataset import DataError
from trainables.data.file_index import FileIndex, guess_patterns
from trainables.data.folder_layout import HASHED_SPLITS, FolderLayout, choose_val
from trainables.data.image_files import ImagePair
from trainables.data.text_files import read_lines


class FoundPairs(NamedTuple):
    """The samples of a split.

    Attributes:
        pairs: Image and mask of each sample.
        all_images: Image files of all splits.
        sources: Lists and folders that name the files.
        warnings: Warnings about the lists.
    """

    pairs: list[ImagePair]
    all_images: tuple[Path, ...]
    sources: tuple[Path, ...]
    warnings: tuple[str, ...]


class _Named(NamedTuple):
    """An image of the split, with the mask that its line names, if any."""

    image: Path
    mask: Path | None = None


def find_pairs(layout: FolderLayout, split: str) -> FoundPairs:
    """Find the samples of a split by its list, its folder, or a hash of their names.

    Raises:
        DataError: A folder, list, image or mask is missing, or the split would be empty.
    """
    folders = (layout.image_folder(split), layout.mask_folder(split))
    images = FileIndex(folders[0], hint=layout.advise(folders[0], "images"))
    masks = FileIndex(folders[1], hint=layout.advise(folders[1], "masks"))
    own = _images_of_pattern(layout, images, has_masks=folders[0] == folders[1])
    listed = layout.list_file(split)
    if listed.is_file():
        named = list(_read_list(layout, listed, images, masks))
    else:
        named = [_Named(images.by_stem[stem]) for stem in _unlisted(layout, split, sorted(own))]
    if not named:
        raise DataError(
            f"{layout.root}: split {split!r} has no sample; name its images in {listed.name}"
        )
    unique = list(dict.fromkeys(named))
    warnings = []
    if len(unique) < len(named):
        twice = next(item for item in unique if named.count(item) > 1)
        warnings.append(
            f"{listed.name} names {len(named) - len(unique)} images twice, such as "
            f"{images.stem_of(twice.image)!r}; each counts once"
        )
    pairs = [_join(layout, item, images, masks, own) for item in unique]
    _check_own_masks(pairs)
    lists = [listed] if listed.is_file() else []
    sources = (layout.root, listed.parent, *lists, *images.directories, *masks.directories)
    return FoundPairs(pairs, _images_of_all_splits(layout, images), sources, tuple(warnings))


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


def _unlisted(layout: FolderLayout, split: str, stems: list[str]) -> list[str]:
    """Return the stems of a split that has no list."""
    listed = layout.list_file(split)
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
    val = choose_val(stems)
    return [stem for stem in stems if (stem in val) == (split == "val")]


def _read_list(
    layout: FolderLayout, listed: Path, images: FileIndex, masks: FileIndex
) -> Iterator[_Named]:
    """Read lines that name an image, or an image and a mask."""
    for number, line in enumerate(read_lines(listed, layout.encoding), start=1):
        if not line:
            continue
        image = _find_image(layout, images, line)
        if image is not None:
            yield _Named(image)
            continue
        pair = _find_both(layout, images, masks, line)
        if pair is None:
            raise DataError(
                f"{listed}: names {line!r} in line {number}, but {images.folder} has no such image "
                f"(it contains {images.names_like(line)}); a line must be the name of an image, or "
                "the "
                "paths of an image and of its mask"
            )
        yield pair


def _find_image(layout: FolderLayout, images: FileIndex, text: str) -> Path | None:
    found = images.find(text, root=layout.root)
    if found is None and layout.image_suffix:  # the list may name what image and mask share
        found = images.find(layout.image_pattern.stem_of(text))
    return found


def _find_both(
    layout: FolderLayout, images: FileIndex, masks: FileIndex, line: str
) -> _Named | None:
    """Split a line at the space, comma or semicolon between an image and a mask."""
    for place, character in enumerate(line):
        if character not in " \t,;":
            continue
        image = _find_image(layout, images, line[:place].strip())
        mask = masks.find(line[place + 1 :].strip(), root=layout.root)
        if image is not None and mask is not None:
            return _Named(image, mask)
    return None


def _join(
    layout: FolderLayout, named: _Named, images: FileIndex, masks: FileIndex, own: dict[str, str]
) -> ImagePair:
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


def _images_of_all_splits(layout: FolderLayout, images: FileIndex) -> tuple[Path, ...]:
    paths = set(images.by_stem.values())
    if layout.has_split_folders:
        for split in ("train", "val", "test"):
            folder = layout.image_folder(split)
            if folder.is_dir():
                paths |= set(FileIndex(folder).by_stem.values())
    return tuple(sorted(paths))
