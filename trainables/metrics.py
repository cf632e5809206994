"""Mean intersection over union of predictions with labels, and of predictions over time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


class ConfusionMatrix:
    """Counts of (target, prediction) pairs over any number of batches.

    Source: equation 5 of the dual-branch paper (Chen et al. 2026).
    Differs: a class that occurs neither in the targets nor in the predictions has no IoU and is
        left out of the mean.

    Attributes:
        counts: Number of pixels, (C, C) int64; rows are targets, columns are predictions.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {num_classes}")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            prediction: Predicted classes, (...) integer in 0..C-1.
            target: Labels of the same shape, in 0..C-1 or `ignore_index`.

        Raises:
            ValueError: Shapes differ, or a label is outside the classes.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction and target must have the same shape, got {tuple(prediction.shape)} "
                "and "
                f"{tuple(target.shape)} (take the argmax over the classes first)"
            )
        valid = target != self.ignore_index
        truth, guess = target[valid].long(), prediction[valid].long()
        for name, labels in (("target", truth), ("prediction", guess)):
            if (
                labels.numel()
                and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes
            ):
                raise ValueError(
                    f"{name} must be in 0..{self.num_classes - 1} (or be {self.ignore_index} in "
                    f"the target), got {int(labels.min())}..{int(labels.max())}"
                )
        pairs = torch.bincount(truth * self.num_classes + guess, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.num_classes, self.num_classes).to(self.counts.device)

    def name_iou(self, classes: Sequence[str]) -> dict[str, float | None]:
        """Return the IoU by class name; None for a class that never occurs."""
        values = zip(classes, self.iou.tolist(), strict=True)
        return {name: None if math.isnan(value) else value for name, value in values}

    @property
    def iou(self) -> Tensor:
        """IoU of each class, (C,) float64 in 0..1; NaN for a class that never occurs."""
        counts = self.counts.double()
        hits = counts.diagonal()
        union = counts.sum(dim=0) + counts.sum(dim=1) - hits
        return torch.where(union > 0, hits / union.clamp(min=1), torch.nan)

    @property
    def miou(self) -> float:
        """Mean of `iou` over the classes that occur, in 0..1; NaN before any valid pixel."""
        return float(self.iou.nanmean())

    @property
    def pixel_accuracy(self) -> float:
        """Fraction of valid pixels with the right class, in 0..1; NaN before any valid pixel."""
        return float(self.counts.diagonal().sum() / self.counts.sum())


class TemporalConsistency:
    """mIoU of predictions with those of the next frames, warped back by the motion.

    It is 1 for a network whose predictions for both frames agree, whether they are right or wrong.

    Source: Liu et al., "Efficient Semantic Video Segmentation with Per-frame Inference", ECCV 2020,
        https://arxiv.org/abs/2002.11433, section 4.1.

    Args:
        num_classes: Number of classes, at least 2.
        ignore_index: Label of pixels without a counterpart.
    """

    def __init__(self, num_classes: int, ignore_index: int = 255) -> None:
        self.matrix = ConfusionMatrix(num_classes, ignore_index)

    def update(self, prediction: Tensor, following: Tensor, motion: Tensor) -> None:
        """Count a pair of frames.

        Args:
            prediction: Predicted classes, (H, W) integer in 0..C-1.
            following: Predicted classes of the next frame, likewise.
            motion: Motion to the next frame in pixels to the right and down, (2, H, W) float; NaN
                where a pixel has no counterpart.

        Raises:
            ValueError: Shapes differ, or a label is outside the classes.
        """
        if motion.shape != (2, *prediction.shape):
            raise ValueError(
                f"motion must be {(2, *prediction.shape)} for a prediction of "
                f"{tuple(prediction.shape)}, got {tuple(motion.shape)}"
            )
        moved = bring_back(following, motion, self.matrix.ignore_index)
        self.matrix.update(prediction, moved)

    @property
    def miou(self) -> float:
        """Consistency in 0..1; NaN before any pixel with a counterpart."""
        return self.matrix.miou


def bring_back(labels: Tensor, motion: Tensor, ignore_index: int = 255) -> Tensor:
    """Warp the labels of the next frame back to this frame.

    Args:
        labels: Labels of the next frame, (H, W) integer.
        motion: Motion, (2, H, W) float; see `TemporalConsistency.update`.
        ignore_index: Label of pixels whose counterpart is unknown or outside.

    Returns:
        (H, W) int64.
    """
    height, width = labels.shape
    rows = torch.arange(height).unsqueeze(1) + motion[1]
    columns = torch.arange(width) + motion[0]
    known = rows.isfinite() & columns.isfinite()
    rows, columns = (torch.where(known, v, -1.0).round().long() for v in (rows, columns))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    found = labels.long()[rows.clamp(0, height - 1), columns.clamp(0, width - 1)]
    return torch.where(inside, found, ignore_index)
