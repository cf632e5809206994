"""Mean intersection over union from one streaming confusion matrix."""

from __future__ import annotations

import torch
from torch import Tensor


class ConfusionMatrix:
    """Counts of (target, prediction) pairs over any number of batches.

    Source: equation 5 of the dual-branch paper (Chen et al. 2026).
    Differs: a class that occurs neither in the targets nor in the predictions has no IoU, and
        does not count in the mean.

    Attributes:
        counts: (C, C) int64; row = target, column = prediction.
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
            prediction: (...) integer, classes 0..C-1.
            target: (...) integer of the same shape, classes 0..C-1 or `ignore_index`.

        Raises:
            ValueError: Shapes differ, or a label is outside the classes.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction and target must have one shape, got {tuple(prediction.shape)} and "
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
                    f"{name} must lie in 0..{self.num_classes - 1} (or be {self.ignore_index} in "
                    f"the target), got {int(labels.min())}..{int(labels.max())}"
                )
        pairs = torch.bincount(truth * self.num_classes + guess, minlength=self.num_classes**2)
        self.counts += pairs.reshape(self.num_classes, self.num_classes).to(self.counts.device)

    def merge(self, other: ConfusionMatrix) -> None:
        """Add the counts of another matrix, such as that of another process.

        Raises:
            ValueError: The number of classes differs.
        """
        if other.num_classes != self.num_classes:
            raise ValueError(
                f"cannot merge {other.num_classes} classes into {self.num_classes} classes"
            )
        self.counts += other.counts.to(self.counts.device)

    @property
    def iou(self) -> Tensor:
        """(C,) float64 in 0..1; NaN for a class that never occurs."""
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
        """Share of valid pixels with the right class, in 0..1; NaN before any valid pixel."""
        return float(self.counts.diagonal().sum() / self.counts.sum())
