"""How networks do on single images, and which images show that best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from trainables.context import StageContext
from trainables.data import SegmentationDataset
from trainables.learning.evaluation import evaluate
from trainables.metrics import ConfusionMatrix

UInt8Array = NDArray[np.uint8]


@dataclass(kw_only=True, slots=True)
class ImageScores:
    """What one pass of every network over the images found.

    Attributes:
        miou: Network -> image -> mIoU of this image alone in 0..1, over the classes in it.
        wrong: Network -> image -> share of its labelled pixels that are predicted wrongly.
        matrices: Network -> confusion matrix over all images of the pass.
    """

    miou: dict[str, dict[int, float]] = field(default_factory=dict)
    wrong: dict[str, dict[int, float]] = field(default_factory=dict)
    matrices: dict[str, ConfusionMatrix] = field(default_factory=dict)
    _first: dict[int, UInt8Array] = field(default_factory=dict)
    _agreed: dict[int, NDArray[np.bool_]] = field(default_factory=dict)

    def add(
        self,
        key: str,
        network: nn.Module,
        dataset: SegmentationDataset,
        indices: Sequence[int],
        context: StageContext,
        *,
        compare: bool,
    ) -> None:
        """Evaluate a network.

        Args:
            key: Its name.
            network: The network.
            dataset: Images and labels.
            indices: Which of them.
            context: Device, threads and lock.
            compare: Whether it counts where networks are compared with each other.
        """
        self.miou[key], self.wrong[key] = {}, {}

        def see(index: int, prediction: Tensor, target: Tensor) -> None:
            matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
            matrix.update(prediction, target)
            if int(matrix.counts.sum()) == 0:
                return  # nothing in it is labelled
            self.miou[key][index] = matrix.miou
            self.wrong[key][index] = 1.0 - matrix.pixel_accuracy
            if compare:
                valid = target.numpy() != dataset.ignore_index
                self._compare(index, prediction.numpy().astype(np.uint8), valid)

        self.matrices[key] = evaluate(network, dataset, context, indices=indices, see=see)

    def measure_disagreement(self, index: int) -> float:
        """Share of an image's labelled pixels for which the compared networks do not all agree."""
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
    """Choose the images that say most: typical ones, the worst, those of largest disagreement.

    The three rankings take turns until there are enough; an image that two of them want counts
    once and bears both reasons.

    Args:
        miou: Image -> mIoU of the network that stands for the front.
        disagreement: Image -> share of pixels on which the networks disagree.
        num_images: How many at most.

    Returns:
        Image -> why it was chosen, in the order of choice.
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
