"""Errors of a stage that are its machine's fault, told from those of its settings."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from models.files.storage import explain_storage_error
from trainables.artifacts.remote_folder import StorageError
from trainables.data.dataset import DataError

_TRAININGS = {
    "teacher": "teacher-training",
    "dense": "dense",
    "sparse": "sparse",
    "distilled": "distil",
}


class OutOfMemory(RuntimeError):  # noqa: N818 - says what happened
    """A stage found too little memory; the message says what to change."""


class SurroundingsError(RuntimeError):
    """Disk, storage or data cannot be used, whatever the settings of a pipeline are."""


@contextmanager
def blaming(stage: str, device: str) -> Iterator[None]:
    """Run a stage; raise what is not its settings' fault as such.

    A data set was read whole before the study began, so that an error of the data now is one of
    this machine, or of what has become of the files since.

    Args:
        stage: Its name.
        device: Torch device that it runs on.

    Raises:
        OutOfMemory: Memory ran out, the device's or the machine's.
        SurroundingsError: A disk is full, a storage does not answer, an image is damaged.
        Exception: Anything else as it was raised.
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
    # On a CPU torch raises a RuntimeError with this text.
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "DefaultCPUAllocator: can't allocate memory" in str(error)
    )  # fmt: skip


def _explain_memory(stage: str, device: str, error: Exception) -> str:
    remedy = (
        "a larger --gpus-per-trial" if device.startswith("cuda") else "a lower --max-concurrent"
    )
    if stage in _TRAININGS:
        remedy += f" or a smaller --pipeline.{_TRAININGS[stage]}.batch-size"
    first_sentence = " ".join(str(error).split()).partition(". ")[0][:120]
    return (
        f"{stage} needs more memory than there is on {device} of {socket.gethostname()} "
        f"({first_sentence or type(error).__name__}); start a study with {remedy}"
    )
