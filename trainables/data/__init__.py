"""Data sets with checked files, a memory-mapped cache, and a seeded stream of samples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trainables.data.augmentation import Augmentation, AugmentationConfig
from trainables.data.cache import CachedDataset, cache_dataset
from trainables.data.camvid import CAMVID_CLASSES, CamVid
from trainables.data.checks import DataReport, check_splits
from trainables.data.cityscapes import CITYSCAPES_CLASSES, Cityscapes
from trainables.data.dataset import (
    IGNORE_INDEX,
    DataError,
    Sample,
    SegmentationDataset,
    TaughtSample,
)
from trainables.data.folder import FolderDataset
from trainables.data.normalization import IMAGENET_MEAN, IMAGENET_STD, normalization_of, normalize
from trainables.data.preview import write_preview
from trainables.data.stream import TrainingStream, make_loader
from trainables.data.synthetic import Synthetic
from trainables.data.synthetic_drives import SyntheticDrives
from trainables.data.teacher_logits import TeacherLogits, cache_logits

__all__ = [
    "CAMVID_CLASSES",
    "CITYSCAPES_CLASSES",
    "DATASETS",
    "IGNORE_INDEX",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Augmentation",
    "AugmentationConfig",
    "CachedDataset",
    "CamVid",
    "Cityscapes",
    "DataError",
    "DataReport",
    "DatasetName",
    "FolderDataset",
    "Sample",
    "SegmentationDataset",
    "Synthetic",
    "TaughtSample",
    "TeacherLogits",
    "TrainingStream",
    "cache_dataset",
    "cache_logits",
    "check_splits",
    "create_dataset",
    "make_loader",
    "normalization_of",
    "normalize",
    "write_preview",
]

DATASETS: dict[str, type[SegmentationDataset]] = {
    "synthetic": Synthetic,
    "synthetic_drives": SyntheticDrives,
    "camvid": CamVid,
    "cityscapes": Cityscapes,
    "folder": FolderDataset,
}

if TYPE_CHECKING:
    DatasetName = str
else:  # so that the command line lists them
    DatasetName = Literal[tuple(DATASETS)]


def create_dataset(
    name: str, root: str | Path | None = None, split: str = "train", **options: Any
) -> SegmentationDataset:
    """Open a data set by name.

    Args:
        name: One of ``DATASETS``.
        root: Folder of the data. "synthetic" needs none; "camvid" falls back on SEGFRONT_CAMVID.
        split: Name of the split: "train", "val" and, if the data have one, "test".
        **options: Options of the class. All accept ``size=(height, width)``; "synthetic" also
            ``num_samples`` and ``seed``, and "folder" also the names of its folders and files.

    Returns:
        The data set. Its files are checked by ``cache_dataset`` or by its method ``check``.

    Raises:
        DataError: A folder, an image or a mask is missing.
        ValueError: The name, the split or an option is unknown.
    """
    if name not in DATASETS:
        raise ValueError(f"name of a data set must be one of {', '.join(DATASETS)}; got {name!r}")
    try:
        return DATASETS[name](root, split, **options)  # type: ignore[call-arg]
    except TypeError as error:
        raise ValueError(f"data set {name!r} was given a wrong option: {error}") from error
