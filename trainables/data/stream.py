"""An endless stream of training samples that depends only on the seed and the position."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from trainables.data.augmentation import Augmentation, AugmentationConfig
from trainables.data.dataset import Sample, SegmentationDataset, TaughtSample
from trainables.data.teacher_logits import TeacherLogits


class TrainingStream(Dataset[Sample | TaughtSample]):
    """Augmented samples by position; a pure function of (seed, position).

    Position p belongs to epoch p // len(dataset); each epoch is a permutation of the data set drawn
    from (seed, epoch), and the augmentation at p is drawn from (seed, p). A resumed run that starts
    at position step * batch_size therefore sees exactly what the uninterrupted run would have seen,
    whatever the number of loader workers. Torch's global random state is not changed.

    Args:
        dataset: Samples to draw from, preferably from ``cache_dataset``.
        augmentation: Settings of the augmentation.
        seed: Seed, any integer.
        num_positions: Length that ``len`` returns; positions beyond it are valid too. Default: one
            epoch.
        teacher_logits: Teacher logits of the same data set, augmented like the images. The images
            are the same with and without them.
        teacher_maps: Maps of the teacher's layers likewise, by name; only with `teacher_logits`.

    Attributes:
        num_together: Neighbouring positions that belong together in a batch.

    Raises:
        ValueError: The data set is empty, the length is negative, the logits belong to another
            data set, or there are maps without logits.
    """

    num_together = 1

    def __init__(
        self,
        dataset: SegmentationDataset,
        augmentation: AugmentationConfig,
        *,
        seed: int,
        num_positions: int | None = None,
        teacher_logits: TeacherLogits | None = None,
        teacher_maps: Mapping[str, TeacherLogits] = MappingProxyType({}),
    ) -> None:
        if len(dataset) == 0:
            raise ValueError(f"dataset {dataset.name!r} ({dataset.split}) has no samples")
        if num_positions is not None and num_positions < 0:
            raise ValueError(f"num_positions must be 0 or more; got {num_positions}")
        if teacher_maps and teacher_logits is None:
            raise ValueError("teacher_maps need teacher_logits too; got only the maps")
        for cached in (teacher_logits, *teacher_maps.values()):
            if cached is not None:
                cached.check_fits(dataset)
        self.dataset = dataset
        self.teacher_logits = teacher_logits
        self.teacher_maps = dict(teacher_maps)
        self.seed = seed
        self.num_positions = len(dataset) if num_positions is None else num_positions
        self._augment = Augmentation(augmentation)

    def __len__(self) -> int:
        """Return the number of positions that a loader without a sampler iterates over."""
        return self.num_positions

    def index_of(self, position: int) -> int:
        """Return the index in the data set of the sample at a position.

        Raises:
            IndexError: The position is negative.
        """
        return self.draw(position, len(self.dataset))

    def draw(self, position: int, length: int) -> int:
        """Return the number at a position; each epoch of `length` has 0..length-1 once each.

        Raises:
            IndexError: The position is negative.
        """
        if position < 0:
            raise IndexError(f"position must be 0 or more; got {position}")
        epoch, offset = divmod(position, length)
        return int(_permutation(length, self.seed, epoch)[offset])

    def seed_of(self, position: int) -> int:
        """Return the augmentation seed of the sample at a position."""
        return _derive_seed(self.seed, "position", position)

    def __getitem__(self, position: int) -> Sample | TaughtSample:
        """Return the sample at a position: uint8 image (3, h, w) and target (h, w).

        h and w are the crop size. With teacher logits, it also has those of the crop,
        (C, h / stride, w / stride) float16, and the teacher's other maps likewise.
        """
        index = self.index_of(position)
        sample = self.dataset[index]
        with torch.random.fork_rng(devices=[]):
            # Not torch.manual_seed, which would reseed the GPUs too; fork_rng does not restore
            # these here.
            torch.default_generator.manual_seed(self.seed_of(position))
            if self.teacher_logits is None:
                return self._augment(sample)
            maps = {name: cached[index] for name, cached in self.teacher_maps.items()}
            return self._augment.vary_taught(sample, self.teacher_logits[index], maps)


def make_loader(
    stream: TrainingStream,
    *,
    batch_size: int,
    num_steps: int,
    start_step: int = 0,
    num_workers: int = 0,
    part: range | None = None,
) -> DataLoader[Sample | TaughtSample]:
    """Make a loader of the batches of steps ``start_step`` to ``num_steps`` (exclusive) of a run.

    Args:
        stream: Stream of the samples.
        batch_size: Number of samples per step.
        num_steps: Number of steps of the whole run.
        start_step: First step that is still to be done.
        num_workers: Number of loader processes, which does not affect the batches.
        part: Places within each batch that are loaded; default: all.

    Returns:
        Loader of Sample(image (N, 3, h, w) uint8, target (N, h, w) uint8), or of TaughtSample with
        teacher_logits (N, C, h / stride, w / stride) float16 and the teacher's other maps; in
        pinned memory if there is a GPU.

    Raises:
        ValueError: The batch size is below 1, or ``start_step`` is outside 0 to ``num_steps``.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more; got {batch_size}")
    if not 0 <= start_step <= num_steps:
        raise ValueError(f"start_step must be from 0 to num_steps={num_steps}; got {start_step}")
    places = range(batch_size) if part is None else part
    firsts = range(start_step * batch_size, num_steps * batch_size, batch_size)
    return DataLoader(
        stream,
        batch_sampler=[list(range(n + places.start, n + places.stop)) for n in firsts],
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


def _derive_seed(*parts: object) -> int:
    """Derive a seed from a hash, so that neighbouring seeds and positions are independent."""
    text = "/".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


@lru_cache(maxsize=4)
def _permutation(length: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(_derive_seed(seed, "epoch", epoch))
    return torch.randperm(length, generator=generator)
