"""Read the folder pictures/ of a run: selected images and each network's predictions on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from analysis.csv_tables import ResultsError
from analysis.run_metadata import read_json

INDEX = "index.json"
VERSION = 1


class SegmentationClass(NamedTuple):
    """A class with the colour in which it is drawn, as "#rrggbb"."""

    name: str
    color: str


class PicturedNetwork(NamedTuple):
    """A network that the pictures show.

    Attributes:
        key: Name for files, such as "teacher", "dense" or "trial-7".
        name: Name in tables; for a member of the front it equals the key.
        role: "teacher", "student" (an uncompressed network) or "front".
        trial: Trial number; None for a baseline.
        miou: mIoU over the evaluated images, in 0..1.
        iou: Class -> IoU over the evaluated images, in 0..1.
    """

    key: str
    name: str
    role: str
    trial: int | None
    miou: float
    iou: Mapping[str, float]


class PicturedImage(NamedTuple):
    """A selected image.

    Attributes:
        name: Name of the sample.
        reasons: Reasons why it was selected.
        shown_size: Height and width of the pictures, in pixels.
        image: File of the image, relative to the folder.
        label: File of the label; its values are classes, and 255 is not labelled.
        predictions: Network -> file of its prediction.
        miou: Network -> mIoU on this image alone, in 0..1.
        wrong: Network -> share of the labelled pixels that it gets wrong, in 0..1.
    """

    name: str
    reasons: tuple[str, ...]
    shown_size: tuple[int, int]
    image: str
    label: str
    predictions: Mapping[str, str]
    miou: Mapping[str, float]
    wrong: Mapping[str, float]


class Pictures(NamedTuple):
    """The content of the folder.

    Attributes:
        folder: Folder of the files.
        split: Split of the data set.
        num_images: Number of images in the split.
        num_evaluated: Number of images that were evaluated to make the selection and to measure
            `iou`.
        max_side: Largest length of a side, in pixels.
        max_bytes: Largest size of the folder, in bytes.
        classes: Classes in the order of their labels.
        networks: Baselines, then the members of the front, the best first.
        images: Images in the order of selection.
        notes: Notes for the reader.
    """

    folder: Path
    split: str
    num_images: int
    num_evaluated: int
    max_side: int
    max_bytes: int
    classes: tuple[SegmentationClass, ...]
    networks: tuple[PicturedNetwork, ...]
    images: tuple[PicturedImage, ...]
    notes: tuple[str, ...]


def read_pictures(folder: Path) -> Pictures | None:
    """Read index.json; the pictures themselves are not opened.

    Args:
        folder: Folder pictures/ of a run, which is missing if the run has no pictures.

    Raises:
        ResultsError: index.json is broken or of another version, or names a file that is missing or
            outside the folder.
    """
    path = folder / INDEX
    if not path.is_file():
        return None
    content = read_json(path)
    if content.get("version") != VERSION:
        raise ResultsError(f"{path}: version must be {VERSION}, got {content.get('version')!r}")
    try:
        pictures = _parse(folder, content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ResultsError(f"{path}: an entry is missing or wrong: {error!r}") from error
    for image in pictures.images:
        for name in (image.image, image.label, *image.predictions.values()):
            if not (folder / name).resolve().is_relative_to(folder.resolve()):
                raise ResultsError(f"{path}: {name!r} is outside {folder}")
            if not (folder / name).is_file():
                raise ResultsError(f"{path}: {name!r} is missing")
    return pictures


def _parse(folder: Path, content: Mapping[str, Any]) -> Pictures:
    return Pictures(
        folder=folder,
        split=str(content["split"]),
        num_images=int(content["num_images"]),
        num_evaluated=int(content["num_evaluated"]),
        max_side=int(content["max_side"]),
        max_bytes=int(content["max_bytes"]),
        classes=tuple(
            SegmentationClass(str(entry["name"]), _check_color(entry["color"]))
            for entry in content["classes"]
        ),
        networks=tuple(
            PicturedNetwork(
                key=str(entry["key"]),
                name=str(entry["name"]),
                role=str(entry["role"]),
                trial=None if entry["trial"] is None else int(entry["trial"]),
                miou=float("nan") if entry["miou"] is None else float(entry["miou"]),
                iou={str(name): float(value) for name, value in entry["iou"].items()},
            )
            for entry in content["networks"]
        ),
        images=tuple(_parse_image(entry) for entry in content["images"]),
        notes=tuple(str(note) for note in content.get("notes") or []),
    )


def _parse_image(entry: Mapping[str, Any]) -> PicturedImage:
    height, width = entry["shown_size"]
    return PicturedImage(
        name=str(entry["name"]),
        reasons=tuple(str(reason) for reason in entry["reasons"]),
        shown_size=(int(height), int(width)),
        image=str(entry["image"]),
        label=str(entry["label"]),
        predictions={str(key): str(name) for key, name in entry["predictions"].items()},
        miou={str(key): float(value) for key, value in entry["miou"].items()},
        wrong={str(key): float(value) for key, value in entry["wrong"].items()},
    )


def _check_color(text: str) -> str:
    if len(text) != 7 or text[0] != "#" or set(text[1:].lower()) - set("0123456789abcdef"):
        raise ValueError(f"a colour must be #rrggbb, got {text!r}")
    return text
