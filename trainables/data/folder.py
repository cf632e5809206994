"""Any data set given as a folder of images, a folder of masks and a list of classes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from trainables.data.class_list import ClassList, parse_classes
from trainables.data.dataset import IGNORE_INDEX, DataError
from trainables.data.folder_layout import FolderLayout
from trainables.data.folder_pairs import find_images_of_all_splits, find_pairs
from trainables.data.image_files import ImagePairDataset
from trainables.data.image_names import require_root
from trainables.data.text_files import read_lines
from trainables.data.value_range import ValueRange

CLASSES_FILE = "classes.txt"
_ADVICE = "; the folder must contain images/, masks/ and classes.txt, or set their names by flags"


class FolderDataset(ImagePairDataset):
    """Images and masks that share a name, and ``classes.txt`` with one class per line.

    The number of a line, from 0, is the label in the masks; 255 is ignored. If the lines have
    colours, the masks must use these colours. ``docs/data.md`` describes layouts and options.

    Args:
        root: Folder of the data.
        split: Name of the split: "train", "val", or any split that has a list or folder.
        size: (height, width) to scale to; None keeps the size of the files.
        images: Folder of the images below the root.
        masks: Folder of the masks below the root.
        lists: Name of a split's list below the root, with {} for the split.
        classes: Path of the file of classes, or its lines themselves; empty for ``classes.txt``.
        image_suffix: Suffix of an image's stem after the name that it shares with its mask.
        mask_suffix: Suffix of a mask's stem after that name.
        ignore: Names of classes that are ignored.
        encoding: Encoding of lists and classes without a byte order mark.
        image_range: Values that become 0 and 255, see `ImagePairDataset`.

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
        images: str = "images",
        masks: str = "masks",
        lists: str = "{}.txt",
        classes: Sequence[str] = (),
        image_suffix: str = "",
        mask_suffix: str = "",
        ignore: Sequence[str] = (),
        encoding: str = "utf-8",
        image_range: ValueRange | None = None,
    ) -> None:
        folder = require_root(self.name, root, advice=_ADVICE)
        layout = FolderLayout(
            root=folder,
            images=images,
            masks=masks,
            lists=lists,
            image_suffix=image_suffix,
            mask_suffix=mask_suffix,
            encoding=encoding,
        )
        lines, class_file = read_class_lines(folder, classes, encoding)
        origin = "--pipeline.data.classes" if class_file is None else str(class_file)
        stated = parse_classes(lines, origin, ignored=ignore)
        found = find_pairs(layout, split)
        super().__init__(
            found.pairs,
            stated.names,
            split=split,
            train_ids=_train_ids(stated),
            size=size,
            mask_colours=_mask_colours(stated),
            colours=stated.kept_colours,
            image_range=image_range,
            find_all_images=functools.partial(find_images_of_all_splits, layout),
            sources=(*found.sources, *([] if class_file is None else [class_file])),
            warnings=found.warnings,
        )
        self.has_one_class = stated.num_stated == 1

    @classmethod
    def has_split(cls, root: str | Path | None, split: str, **options: object) -> bool:
        """See the base class."""
        folder = require_root(cls.name, root, advice=_ADVICE)
        names = ("images", "masks", "lists")
        given = {name: str(options[name]) for name in names if name in options}
        return FolderLayout(root=folder, **given).has_split(split)


def read_class_lines(
    root: Path, classes: Sequence[str], encoding: str = "utf-8"
) -> tuple[list[str], Path | None]:
    """Return the lines that name the classes, and the file that they come from, if any.

    Args:
        root: Folder of the data.
        classes: A path relative to the working directory or the root, or the lines themselves;
            empty for ``classes.txt`` below the root.
        encoding: Encoding of the file.

    Raises:
        DataError: The file is missing or is not text.
    """
    if len(classes) > 1:
        return [line.strip() for line in classes], None
    if not classes:
        path = root / CLASSES_FILE
        if not path.is_file():
            raise DataError(
                f"{path}: file is missing; it must name one class per line; set another file by "
                "--pipeline.data.classes FILE"
            )
        return read_lines(path, encoding), path
    given = Path(classes[0]).expanduser()
    for path in (given, root / given):
        if path.is_file():
            return read_lines(path, encoding), path
    if given.suffix or len(given.parts) > 1:
        raise DataError(f"{given}: file of classes is missing, here and in {root}")
    return [classes[0].strip()], None


def _train_ids(classes: ClassList) -> dict[int, int]:
    return dict(enumerate(classes.train_ids)) | {IGNORE_INDEX: IGNORE_INDEX}


def _mask_colours(classes: ClassList) -> dict[tuple[int, int, int], int] | None:
    if classes.colours is None:
        return None
    return dict(zip(classes.colours, classes.train_ids, strict=True))
