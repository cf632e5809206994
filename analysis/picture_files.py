"""The report's own copies of a run's pictures, with the errors of each prediction marked."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from analysis.csv_tables import ResultsError
from analysis.pictures import Pictures

FOLDER = "pictures"
NOT_LABELLED = 255
COVERS = ((255, 255, 255, 0), (255, 255, 255, 225), (128, 128, 128, 255))
"""Colours laid over a prediction: transparent over errors, white over correct pixels, and grey over
unlabelled pixels. Only the errors stay visible, in the colour of the predicted class."""


def write_picture_files(pictures: Pictures, output: Path) -> None:
    """Copy the pictures, and write covers that leave only the errors visible.

    Args:
        pictures: Pictures of a run.
        output: Folder to write to; it is replaced.

    Raises:
        ResultsError: A picture cannot be read; the message names it.
    """
    shutil.rmtree(output, ignore_errors=True)
    for image in pictures.images:
        for name in (image.image, image.label, *image.predictions.values()):
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(pictures.folder / name, output / name)
        label = _read_mask(pictures.folder / image.label)
        for name in image.predictions.values():
            prediction = _read_mask(pictures.folder / name)
            if prediction.shape != label.shape:
                raise ResultsError(f"{pictures.folder / name}: its size differs from the label's")
            cover = np.where(prediction == label, 1, 0).astype(np.uint8)
            cover[label == NOT_LABELLED] = 2
            _save_cover(cover, output / get_errors_name(name))


def get_errors_name(prediction: str) -> str:
    """Return the file name of a prediction's cover."""
    return prediction.removesuffix(".png") + ".errors.png"


def _read_mask(path: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    try:
        with Image.open(path) as mask:
            return np.asarray(mask, dtype=np.uint8)
    except OSError as error:
        raise ResultsError(f"{path}: cannot be read as an image: {error}") from error


def _save_cover(cover: np.ndarray[tuple[int, ...], np.dtype[np.uint8]], path: Path) -> None:
    image = Image.fromarray(cover)
    image.putpalette([value for color in COVERS for value in color[:3]])
    image.save(path, transparency=bytes(color[3] for color in COVERS), bits=2, optimize=True)
