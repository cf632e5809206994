"""Which data set a study learns from, and how its images are varied in training."""

from __future__ import annotations

import os
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from trainables.data import (
    DATASETS,
    AugmentationConfig,
    CachedDataset,
    DataError,
    SegmentationDataset,
    cache_dataset,
    create_dataset,
)
from trainables.data.folder import read_class_lines

_FOLDER_OPTIONS: dict[str, Any] = {
    "images": "images",
    "masks": "masks",
    "lists": "{}.txt",
    "classes": (),
    "image_suffix": "",
    "mask_suffix": "",
    "ignore": (),
    "encoding": "utf-8",
    "image_range": None,
}
"""Fields that only the data set "folder" knows, with their defaults."""

_opened: dict[Hashable, SegmentationDataset] = {}


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A data set and its augmentation. docs/data.md shows layouts and what is refused.

    Attributes:
        name: synthetic (built in), synthetic_drives (its streets driven through), camvid,
            cityscapes or folder (your own images and masks).
        root: Folder of the data set (flag --data-root); default: the environment variable
            SEGFRONT_<NAME>. The synthetic one needs none.
        size: Height and width to which images are brought once, when they are cached; for the
            synthetic data set the size drawn; None keeps the original (only some data sets allow
            a size).
        num_samples: Training images of the synthetic data set (a quarter of it is validation).
        images: Folder of the images below the root, for a folder of your own (as all that follow);
            may hold {split}, as in {split}/images.
        masks: Folder of the masks below the root; may hold {split}.
        lists: Name of a split's list below the root, with {} for the split.
        classes: A file with one class per line, and its colour if masks are in colours
            (crop 0 255 0), or the lines themselves; default: classes.txt below the root.
        image_suffix: What an image's name has behind the part that it shares with its mask, such as
            _image, or a pattern such as image_{}.
        mask_suffix: The same for the masks, such as _mask or mask_{}.
        ignore: Names of classes whose pixels count neither in a loss nor in a metric.
        encoding: Of lists and classes that are not UTF-8 and have no byte order mark.
        image_range: Values that become 0 and 255 in images of more than 8 bits; default: chosen
            from all images.
        augmentation: Random scale, crop, flip and colour of the training images.
    """

    name: Literal["synthetic", "synthetic_drives", "camvid", "cityscapes", "folder"] = "synthetic"
    root: Annotated[Path | None, tyro.conf.arg(aliases=["--data-root"])] = None
    size: tuple[int, int] | None = None
    num_samples: int = 160
    images: str = "images"
    masks: str = "masks"
    lists: str = "{}.txt"
    classes: tuple[str, ...] = ()
    image_suffix: str = ""
    mask_suffix: str = ""
    ignore: tuple[str, ...] = ()
    encoding: str = "utf-8"
    image_range: tuple[float, float] | None = None
    augmentation: AugmentationConfig = field(
        default_factory=lambda: AugmentationConfig(crop_size=(128, 256))
    )

    def __post_init__(self) -> None:
        """Check the range of values.

        Raises:
            ValueError: It is empty.
        """
        if self.image_range is not None and not self.image_range[0] < self.image_range[1]:
            raise ValueError(f"image_range must be two rising values; got {self.image_range!r}")

    def resolve_root(self) -> Path | None:
        """Folder given by the field or by the environment."""
        if self.root is not None or self.name.startswith("synthetic"):
            return self.root
        from_environment = os.environ.get(f"SEGFRONT_{self.name.upper()}")
        return Path(from_environment) if from_environment else None

    def settle(self) -> DataConfig:
        """The same with an absolute root and the classes read, to hold wherever it is used later.

        Raises:
            DataError: The file of classes is missing or is no text.
        """
        root = self._absolute_root()
        classes = self.classes
        if self.name == "folder" and classes:
            lines, _ = read_class_lines(root or Path(), classes, self.encoding)
            classes = tuple(lines)
        return replace(self, root=root, classes=classes)

    def has_split(self, split: str) -> bool:
        """Whether a split, such as "test", can be opened, as far as folders and lists say.

        Raises:
            DataError: The folder of the data is missing.
        """
        options = self._options(split)
        return DATASETS[self.name].has_split(self._absolute_root(), split, **options)

    def open(self, split: str) -> SegmentationDataset:
        """Open a split without decoding its images.

        A process gets the same object again as long as no file of the split changes.

        Raises:
            DataError: The folder or a file that the layout asks for is missing.
            ValueError: An option is not one of this data set.
        """
        options = self._options(split)
        root = self._absolute_root()
        key = (self.name, root, split, tuple(sorted(options.items())))
        known = _opened.get(key)
        if known is not None and known.is_unchanged():
            return known
        opened = create_dataset(self.name, root, split, **options)
        if known is None or known.state != opened.state:
            _opened[key] = known = opened
        return known

    def open_cached(self, split: str, cache_dir: Path) -> CachedDataset:
        """Open a split, decoded once per node and checked as it was decoded.

        Raises:
            DataError: A file is missing, unreadable or has labels outside the classes.
        """
        return cache_dataset(self.open(split), cache_dir)

    def open_all_cached(self, splits: Sequence[str], cache_dir: Path) -> list[CachedDataset]:
        """Open several splits as `open_cached` does.

        Raises:
            DataError: Names what cannot be used in any of them.
        """
        opened, problems = [], []
        for split in splits:
            try:
                opened.append(self.open_cached(split, cache_dir))
            except DataError as error:
                problems.append(str(error))
        if problems:
            raise DataError("\n".join(dict.fromkeys(problems)))
        return opened

    def _absolute_root(self) -> Path | None:
        root = self.resolve_root()
        return None if root is None else root.expanduser().absolute()

    def _options(self, split: str) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self.size is not None:
            options["size"] = tuple(self.size)
        if self.name.startswith("synthetic"):
            options["num_samples"] = self.num_samples if split == "train" else self.num_samples // 4
        for name, default in _FOLDER_OPTIONS.items():
            value = getattr(self, name)
            if value == default:
                continue
            if self.name != "folder":
                flag = name.replace("_", "-")
                raise DataError(
                    f"--pipeline.data.{flag} goes with --pipeline.data.name folder only; the data "
                    f"set here is {self.name}"
                )
            options[name] = tuple(value) if isinstance(value, list) else value
        return options
