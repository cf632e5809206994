"""Accuracy of a network on a data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from trainables.context import StageContext, within_threads
from trainables.data import SegmentationDataset, normalization_of, normalize
from trainables.learning.training import Precision, autocast, place
from trainables.metrics import ConfusionMatrix
from trainables.process.distributed import count_processes, get_rank, sum_over_processes
from trainables.process.watchdog import note_progress


@torch.inference_mode()
@within_threads
def evaluate(
    model: nn.Module,
    dataset: SegmentationDataset,
    context: StageContext,
    *,
    precision: Precision = "auto",
    indices: Sequence[int] | None = None,
    see: Callable[[int, Tensor, Tensor], None] | None = None,
) -> ConfusionMatrix:
    """Compare predictions with labels at each image's full size, one image at a time.

    Several processes (`trainables.process.distributed`) divide the images and all learn the sum.

    Args:
        model: Network, which is moved to `context.device` and left in eval mode.
        dataset: Images and labels.
        context: Device, threads and lock.
        precision: Precision of the forward pass, as in training.
        indices: Indices of the images; default: all.
        see: Function that is called with the index of each image of this process,
            its (H, W) int64 prediction and its (H, W) uint8 labels.

    Returns:
        Confusion matrix over all pixels that are not ignored.
    """
    device = torch.device(context.device)
    place(model, device).eval()
    normalization = normalization_of(model)
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
    chosen = range(len(dataset)) if indices is None else indices
    chosen = chosen[get_rank() :: count_processes()]
    loader = DataLoader(Subset(dataset, chosen), batch_size=1, num_workers=context.num_workers)
    for index, (images, target) in enumerate(loader):
        note_progress(f"image {index + 1} of {len(chosen)} of the evaluation")
        with context.device_lock.shared(), autocast(precision, device):
            logits = model(normalize(images.to(device), normalization))
            prediction = logits.argmax(dim=1).cpu()  # waits for the device
        matrix.update(prediction, target)
        context.count("image")
        if see is not None:
            see(chosen[index], prediction[0], target[0])
    matrix.counts = sum_over_processes(matrix.counts)
    return matrix
