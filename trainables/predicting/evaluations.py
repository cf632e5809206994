"""Scores of networks on single images, and the choice of images to show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from trainables.data import SegmentationDataset
from trainables.metrics import ConfusionMatrix
from trainables.predicting.open_network import Evaluate

UInt8Array = NDArray[np.uint8]


@dataclass(kw_only=True, slots=True)
class ImageScores:
    """Scores of every network after one pass over the images.

    Attributes:
        miou: mIoU in 0..1 by network and image, over the classes in the image.
        wrong: Fraction of wrong labelled pixels by network and image.
        matrices: Confusion matrix over all images of the pass, by network.
    """

    miou: dict[str, dict[int, float]] = field(default_factory=dict)
    wrong: dict[str, dict[int, float]] = field(default_factory=dict)
    matrices: dict[str, ConfusionMatrix] = field(default_factory=dict)
    _first: dict[int, UInt8Array] = field(default_factory=dict)
    _agreed: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    def add(
        self,
        key: str,
        evaluate: Evaluate,
        dataset: SegmentationDataset,
        indices: Sequence[int],
        *,
        compare: bool,
    ) -> None:
        """Evaluate a network.

        Args:
            key: Name of the network.
            evaluate: The network, opened.
            dataset: Images and labels.
            indices: Indices of the images.
            compare: Whether to include it when networks are compared with each other.
        """
        self.miou[key], self.wrong[key] = {}, {}

        def see(index: int, prediction: Tensor, target: Tensor) -> None:
            matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
            matrix.update(prediction, target)
            if int(matrix.counts.sum()) == 0:
                return  # the image has no labelled pixels
            self.miou[key][index] = matrix.miou
            self.wrong[key][index] = 1.0 - matrix.pixel_accuracy
            if compare:
                valid = target.numpy() != dataset.ignore_index
                self._compare(index, prediction.numpy().astype(np.uint8), valid)

        self.matrices[key] = evaluate(dataset, indices=indices, see=see)

    def measure_disagreement(self, index: int) -> float:
        """Return the fraction of labelled pixels on which the compared networks disagree."""
        agreed = self._agreed.get(index)
        return 0.0 if agreed is None or agreed.size == 0 else float(1.0 - agreed.mean())

    def _compare(self, index: int, prediction: UInt8Array, valid: NDArray[np.bool_]) -> None:
        labelled = prediction[valid]
        if index not in self._first:
            self._first[index] = labelled
            self._agreed[index] = np.ones(len(labelled), dtype=np.bool_)
        else:
            self._agreed[index] &= self._first[index] == labelled


def choose_images(
    miou: Mapping[int, float], disagreement: Mapping[int, float], num_images: int
) -> dict[int, list[str]]:
    """Choose images to show: typical ones, the worst, those of largest disagreement.

    The three rankings take turns until there are enough images. An image that two of them choose is
    listed once, with both reasons.

    Args:
        miou: mIoU of the network that represents the front, by image.
        disagreement: Fraction of pixels on which the networks disagree, by image.
        num_images: Largest number of images.

    Returns:
        Reasons for the choice by image, in the order of choice.
    """
    if not miou:
        return {}
    median = float(np.median(list(miou.values())))
    rankings = {
        "typical": sorted(miou, key=lambda index: (abs(miou[index] - median), index)),
        "worst for the front's best": sorted(miou, key=lambda index: (miou[index], index)),
        "largest disagreement": sorted(
            (index for index in miou if disagreement.get(index, 0.0) > 0),
            key=lambda index: (-disagreement[index], index),
        ),
    }
    chosen: dict[int, list[str]] = {}
    for place_in_ranking in range(len(miou)):
        for reason, ranking in rankings.items():
            if place_in_ranking >= len(ranking):
                continue
            index = ranking[place_in_ranking]
            if index in chosen:
                chosen[index].append(reason)
            elif len(chosen) < num_images:
                chosen[index] = [reason]
        if len(chosen) == min(num_images, len(miou)):
            break
    return chosen
