"""The folder pictures/ of a run: chosen images, their labels and the networks' predictions.

`index.json` describes it completely, so that a report can be made without the project: classes and
their colours, the networks with their IoU per class, and for each image the reason for its choice,
its files and every network's mIoU on it. Masks are PNG files whose palette holds the classes'
colours and whose values are the classes (255: not labelled).
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from trainables.context import StageContext
from trainables.data import SegmentationDataset
from trainables.data.palette import Colour, name_colour
from trainables.predicting.evaluations import ImageScores, choose_images
from trainables.predicting.open_network import NetworkError, open_network
from trainables.predicting.run_networks import RunNetwork

FOLDER = "pictures"
INDEX = "index.json"
VERSION = 1
JPEG_QUALITY = 85


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureLimits:
    """Limits on the evaluation and on the size of the pictures.

    Attributes:
        num_images: Number of images to choose, 1 to 8.
        max_side: Longest side of a picture in pixels, at least 32; larger pictures are scaled down.
        num_candidates: Number of images that are evaluated to choose from, evenly spread over the
            split.
        max_bytes: Largest size of the folder; the last images are left out to meet it.
    """

    num_images: int = 8
    max_side: int = 640
    num_candidates: int = 128
    max_bytes: int = 20_000_000

    def __post_init__(self) -> None:
        if not 1 <= self.num_images <= 8:
            raise ValueError(f"num_images must be in 1..8, got {self.num_images}")
        if self.max_side < 32:
            raise ValueError(f"max_side must be at least 32 pixels, got {self.max_side}")
        if self.num_candidates < 1:
            raise ValueError(f"num_candidates must be at least 1, got {self.num_candidates}")
        if self.max_bytes < 1:
            raise ValueError(f"max_bytes must be at least 1, got {self.max_bytes}")


def write_pictures(
    run_dir: Path,
    networks: Sequence[RunNetwork],
    dataset: SegmentationDataset,
    context: StageContext,
    limits: PictureLimits | None = None,
) -> list[str]:
    """Evaluate the networks image by image, choose images, and write RUN_DIR/pictures.

    Each network passes once over at most `num_candidates` images, and once more over the chosen
    ones. An existing folder is replaced completely.

    Args:
        run_dir: Folder of the run.
        networks: Baselines and members of the front, the best first.
        dataset: The validation split.
        context: Device, threads and lock.
        limits: Limits on the evaluation and on the size of the pictures.

    Returns:
        Notes for the user, such as networks that cannot be opened.
    """
    limits = limits or PictureLimits()
    notes: list[str] = []
    scores, indices = ImageScores(), _spread(len(dataset), limits.num_candidates)
    shown = []
    for network in networks:
        try:
            evaluate = open_network(network, context)
        except NetworkError as error:
            notes.append(f"no pictures of {network.name}: {error}")
            continue
        compare = network.role != "teacher"
        scores.add(network.key, evaluate, dataset, indices, compare=compare)
        shown.append(network)
    if not shown:
        return notes
    standing = next((n for n in shown if n.role == "front"), shown[-1])
    disagreement = {index: scores.measure_disagreement(index) for index in indices}
    chosen = choose_images(scores.miou[standing.key], disagreement, limits.num_images)
    folder = _start_folder(run_dir)
    images = _write_images(folder, shown, dataset, context, list(chosen), limits, notes)
    for index, entry in images.items():
        entry["reasons"] = chosen[index]
        entry["disagreement"] = round(disagreement[index], 4)
        entry["miou"] = {n.key: round(scores.miou[n.key][index], 4) for n in shown}
        entry["wrong"] = {n.key: round(scores.wrong[n.key][index], 4) for n in shown}
    content = {
        "version": VERSION,
        "split": dataset.split,
        "num_images": len(dataset),
        "num_evaluated": len(indices),
        "max_side": limits.max_side,
        "max_bytes": limits.max_bytes,
        "classes": _describe_classes(dataset),
        "networks": [_describe_network(n, scores, dataset) for n in shown],
        "images": list(images.values()),
        "notes": notes,
    }
    (folder / INDEX).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
    folder.rename(run_dir / FOLDER)
    return notes


def _spread(total: int, wanted: int) -> list[int]:
    """Pick indices evenly from 0..total-1."""
    count = min(total, wanted)
    return [index * total // count for index in range(count)]


def _start_folder(run_dir: Path) -> Path:
    folder = run_dir / f"{FOLDER}.partial"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def _write_images(
    folder: Path,
    networks: Sequence[RunNetwork],
    dataset: SegmentationDataset,
    context: StageContext,
    indices: list[int],
    limits: PictureLimits,
    notes: list[str],
) -> dict[int, dict[str, Any]]:
    """Write every picture, network by network, and remove the last images above the size limit."""
    palette = _flatten(dataset.colours)
    entries: dict[int, dict[str, Any]] = {}
    for place, index in enumerate(indices):
        image, target = dataset[index]
        (folder / str(place)).mkdir()
        photo = _limit(Image.fromarray(image.permute(1, 2, 0).numpy()), limits.max_side)
        photo.save(folder / f"{place}/image.jpg", quality=JPEG_QUALITY)
        _save_mask(folder / f"{place}/label.png", target.numpy(), palette, limits.max_side)
        entries[index] = {
            "name": dataset.sample_name(index),
            "size": [int(side) for side in target.shape],
            "shown_size": [photo.height, photo.width],
            "image": f"{place}/image.jpg",
            "label": f"{place}/label.png",
            "predictions": {n.key: f"{place}/{n.key}.png" for n in networks},
        }
    for network in networks:

        def save(index: int, prediction: Tensor, target: Tensor, key: str = network.key) -> None:
            path = folder / entries[index]["predictions"][key]
            _save_mask(path, prediction.numpy(), palette, limits.max_side)

        open_network(network, context)(dataset, indices=indices, see=save)
    for place, index in reversed(list(enumerate(indices))):
        size = sum(path.stat().st_size for path in folder.rglob("*.*") if path.is_file())
        if size <= limits.max_bytes or len(entries) == 1:
            break
        shutil.rmtree(folder / str(place))
        notes.append(
            f"{entries.pop(index)['name']} is left out: the limit is {limits.max_bytes} bytes"
        )
    return entries


def _save_mask(path: Path, classes: np.ndarray[Any, Any], palette: list[int], side: int) -> None:
    mask = Image.fromarray(classes.astype(np.uint8))
    mask = _limit(mask, side, Image.Resampling.NEAREST)
    mask.putpalette(palette)
    mask.save(path, optimize=True)


def _limit(
    image: Image.Image, side: int, resampling: Image.Resampling = Image.Resampling.LANCZOS
) -> Image.Image:
    scale = side / max(image.size)
    if scale >= 1:
        return image
    width, height = (max(1, round(length * scale)) for length in image.size)
    return image.resize((width, height), resampling)


def _flatten(colours: Sequence[Colour]) -> list[int]:
    """Make a palette of 256 colours, in which what has no class is black."""
    rows = [*colours, *[(0, 0, 0)] * (256 - len(colours))]
    return [value for colour in rows for value in colour]


def _describe_classes(dataset: SegmentationDataset) -> list[dict[str, str]]:
    return [
        {"name": name, "color": name_colour(colour)}
        for name, colour in zip(dataset.classes, dataset.colours, strict=True)
    ]


def _describe_network(
    network: RunNetwork, scores: ImageScores, dataset: SegmentationDataset
) -> dict[str, Any]:
    matrix = scores.matrices[network.key]
    iou = matrix.name_iou(dataset.classes).items()
    return {
        "key": network.key,
        "name": network.name,
        "role": network.role,
        "trial": network.trial,
        "stage": network.stage,
        "miou": None if math.isnan(matrix.miou) else round(matrix.miou, 5),
        "iou": {name: round(value, 5) for name, value in iou if value is not None},
    }
