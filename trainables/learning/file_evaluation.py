"""Accuracy of a deployed file on a data set, with images as a bundle's predict.py reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models.engines import Session
from models.normalization import Normalization, Normalize
from trainables.context import Unit, ignore_unit
from trainables.data import SegmentationDataset
from trainables.metrics import ConfusionMatrix
from trainables.process.watchdog import note_progress

Predict = Callable[[NDArray[Any]], NDArray[Any]]
"""A function that maps images (1, 3, H, W) uint8 to logits (1, num_classes, H, W)."""


def evaluate_session(
    session: Session,
    dataset: SegmentationDataset,
    image_size: tuple[int, int],
    count: Callable[[Unit], None] = ignore_unit,
) -> ConfusionMatrix:
    """Compare a file's predictions with the labels; see `evaluate_predictions`."""
    return evaluate_predictions(session.run, dataset, image_size, count)


def evaluate_predictions(
    predict: Predict,
    dataset: SegmentationDataset,
    image_size: tuple[int, int],
    count: Callable[[Unit], None] = ignore_unit,
    *,
    indices: Sequence[int] | None = None,
    see: Callable[[int, Tensor, Tensor], None] | None = None,
) -> ConfusionMatrix:
    """Compare predictions with the labels of the images, resizing as a bundle's predict.py does.

    Args:
        predict: Function that computes logits.
        dataset: Images and labels.
        image_size: Height and width that it accepts. Images of other sizes are resized to it, and
            the predictions back.
        count: Function that is called after every image.
        indices: Indices of the images; default: all.
        see: Function that is called with the index of each image, its (H, W) uint8 prediction and
            its (H, W) uint8 labels.
    """
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
    chosen = range(len(dataset)) if indices is None else indices
    for number, index in enumerate(chosen, start=1):
        note_progress(f"image {number} of {len(chosen)} of the evaluation in the engine")
        image, target = dataset[index]
        size = (int(image.shape[-2]), int(image.shape[-1]))
        pixels = resize_image(image.numpy(), image_size)
        classes = predict(np.ascontiguousarray(pixels[None]))[0].argmax(axis=0).astype(np.uint8)
        if size != image_size:
            picture = Image.fromarray(classes).resize((size[1], size[0]), Image.Resampling.NEAREST)
            classes = np.array(picture)
        prediction = torch.from_numpy(classes)
        matrix.update(prediction, target)
        count("image")
        if see is not None:
            see(index, prediction, target)
    return matrix


def resize_image(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize (3, H, W) uint8 as predict.py does; unchanged if it already has the size."""
    if pixels.shape[-2:] == size:
        return pixels
    picture = Image.fromarray(pixels.transpose(1, 2, 0))
    resized = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def run_in_torch(model: nn.Module, normalization: Normalization) -> Predict:
    """Return a function that computes logits in float32 on the CPU, in eager PyTorch."""
    whole = nn.Sequential(Normalize(normalization), model.cpu().float()).eval()

    def predict(images: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            logits: NDArray[Any] = whole(torch.from_numpy(images)).numpy()
        return logits

    return predict
