"""Whose fault an error of a stage is, and what to do about it."""

from __future__ import annotations

import errno
import socket

import numpy as np
import pytest
import torch

from trainables.data import DataError
from trainables.learning.training import TrainConfig, TrainingDiverged
from trainables.pipeline_config import PipelineConfig
from trainables.process.machine_errors import OutOfMemory, SurroundingsError
from trainables.stages import STAGES
from trainables.stages.stage_errors import blaming

HOST = socket.gethostname()
CUDA_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 8")


@pytest.mark.parametrize(
    ("error", "stage", "device", "message"),
    [
        (CUDA_ERROR, "distilled", "cuda",
         f"distilled needs more memory than there is on cuda of {HOST} (CUDA out of memory); start "
         "a study with a larger --gpus-per-trial or a smaller --pipeline.distil.batch-size"),
        (MemoryError(), "teacher", "cpu",
         f"teacher needs more memory than there is on cpu of {HOST} (MemoryError); start a study "
         "with a lower --max-concurrent or a smaller --pipeline.teacher-training.batch-size"),
        (CUDA_ERROR, "pruned", "cuda",
         f"pruned needs more memory than there is on cuda of {HOST} (CUDA out of memory); start a "
         "study with a larger --gpus-per-trial"),
    ],
)  # fmt: skip
def test_memory_says_what_needs_less(
    error: Exception, stage: str, device: str, message: str
) -> None:
    with pytest.raises(OutOfMemory) as raised, blaming(stage, device):
        raise error
    assert str(raised.value) == message


def test_what_needs_less_is_a_flag_of_every_stage_that_trains() -> None:
    with_schedule = {stage.schedule for stage in STAGES.values() if stage.schedule}
    assert all(isinstance(getattr(PipelineConfig(), name), TrainConfig) for name in with_schedule)
    assert all(stage.schedule for stage in STAGES.values() if stage.trains)


def test_memory_that_torch_or_numpy_cannot_get_on_a_cpu_is_told_as_such() -> None:
    with pytest.raises(OutOfMemory, match="dense needs more memory"), blaming("dense", "cpu"):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(OutOfMemory, match="Unable to allocate"), blaming("dense", "cpu"):
        np.empty(2**60, dtype=np.uint8)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/run/a"), "the disk is full: .* /run/a"),
        (OSError(errno.EIO, "Input/output error", "/run/a"), "does not answer .*/run/a"),
        (DataError("2 of 5 samples:\n  - a.png\n  - b.png"), f"^2 of 5 .* - b.png .on {HOST}"),
    ],
)
def test_disk_storage_and_data_are_the_surroundings(error: Exception, message: str) -> None:
    with pytest.raises(SurroundingsError, match=message), blaming("dense", "cpu"):
        raise error


@pytest.mark.parametrize(
    "error", [TrainingDiverged("the loss is nan"), RuntimeError("no"), FileNotFoundError("gone")]
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, blaming("dense", "cpu"):
        raise error
    assert raised.value is error
