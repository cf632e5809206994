"""Which data set a study learns from, and how its images are varied in training."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from trainables.data import (
    AugmentationConfig,
    CachedDataset,
    SegmentationDataset,
    cache_dataset,
    create_dataset,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataConfig:
    """A data set and its augmentation.

    Attributes:
        name: synthetic (built in), synthetic_drives (its streets driven through), camvid,
            cityscapes or folder.
        root: Folder of the data set (flag --data-root); default: the environment variable
            SEGFRONT_<NAME>. The synthetic one needs none.
        size: Height and width to which images are brought once, when they are cached; for the
            synthetic data set the size drawn; None keeps the original (only some data sets allow
            a size).
        num_samples: Training images of the synthetic data set (a quarter of it is validation).
        augmentation: Random scale, crop, flip and colour of the training images.
    """

    name: Literal["synthetic", "synthetic_drives", "camvid", "cityscapes", "folder"] = "synthetic"
    root: Annotated[Path | None, tyro.conf.arg(aliases=["--data-root"])] = None
    size: tuple[int, int] | None = None
    num_samples: int = 160
    augmentation: AugmentationConfig = field(
        default_factory=lambda: AugmentationConfig(crop_size=(128, 256))
    )

    def resolve_root(self) -> Path | None:
        """Folder given by the field or by the environment."""
        if self.root is not None or self.name.startswith("synthetic"):
            return self.root
        from_environment = os.environ.get(f"SEGFRONT_{self.name.upper()}")
        return Path(from_environment) if from_environment else None

    def open(self, split: str) -> SegmentationDataset:
        """Open a split without reading its images.

        A process looks once which files there are, so that one fingerprint stands for all its work.

        Raises:
            DataError: The folder or a file that the layout asks for is missing.
        """
        options: dict[str, Any] = {}
        if self.size is not None:
            options["size"] = tuple(self.size)
        if self.name.startswith("synthetic"):
            options["num_samples"] = self.num_samples if split == "train" else self.num_samples // 4
        root = self.resolve_root()
        absolute = None if root is None else root.expanduser().absolute()
        return _open_once(self.name, absolute, split, **options)

    def open_cached(self, split: str, cache_dir: Path) -> CachedDataset:
        """Open a split, decoded once per node and checked as it was decoded.

        Raises:
            DataError: A file is missing, unreadable or has labels outside the classes.
        """
        return cache_dataset(self.open(split), cache_dir)


@functools.lru_cache(maxsize=8)
def _open_once(name: str, root: Path | None, split: str, **options: Any) -> SegmentationDataset:
    return create_dataset(name, root, split, **options)
