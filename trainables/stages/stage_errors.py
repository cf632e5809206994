"""Tells a stage's errors that its machine caused from those that its settings caused."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.files.storage import explain_storage_error
from trainables.artifacts.remote_folder import StorageError
from trainables.data.dataset import DataError
from trainables.process.machine_errors import OutOfMemory, SurroundingsError
from trainables.stages import STAGES


@contextmanager
def blaming(stage: str, device: str) -> Iterator[None]:
    """Run a stage in the block, and convert errors that its settings did not cause.

    The data set was read completely before the study began, so an error of the data now comes from
    this machine or from files that have changed since.

    Args:
        stage: Name of the stage, for the message.
        device: Torch device that the stage runs on.

    Raises:
        OutOfMemory: The device or the machine ran out of memory.
        SurroundingsError: The disk is full, a storage does not respond, or an image is damaged.
        Exception: Any other error, as it was raised.
    """
    try:
        yield
    except (DataError, StorageError) as error:
        text = " ".join(str(error).split())
        raise SurroundingsError(f"{text} (on {socket.gethostname()})") from error
    except Exception as error:
        if _is_out_of_memory(error):
            raise OutOfMemory(_explain_memory(stage, device, error)) from error
        explained = explain_storage_error(error)
        if explained:
            raise SurroundingsError(explained) from error
        raise


def _is_out_of_memory(error: Exception) -> bool:
    # For the CPU, torch raises a plain RuntimeError with this text.
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )  # fmt: skip


def _explain_memory(stage: str, device: str, error: Exception) -> str:
    remedy = (
        "a larger --gpus-per-trial" if device.startswith("cuda") else "a lower --max-concurrent"
    )
    schedule = STAGES[stage].schedule.replace("_", "-") if stage in STAGES else ""
    if schedule:
        remedy += f" or a smaller --pipeline.{schedule}.batch-size"
    first_sentence = " ".join(str(error).split()).partition(". ")[0][:120]
    return (
        f"{stage} needs more memory than there is on {device} of {socket.gethostname()} "
        f"({first_sentence or type(error).__name__}); start a study with {remedy}"
    )
