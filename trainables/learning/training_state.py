"""The state of an unfinished training in one safetensors file, which is written atomically."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import nn

from models.files.atomic_file import write_atomically
from models.files.storage import patiently
from trainables.learning.weight_average import WeightAverage


class TrainingStateError(ValueError):
    """A saved training state is damaged or belongs to another network."""


def save_training_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: dict[str, Any],
    average: WeightAverage | None = None,
    beside: nn.Module | None = None,
) -> None:
    """Write weights, optimiser moments and progress atomically.

    Args:
        path: Target file.
        model: Network, whose `state_dict` is saved exactly.
        optimizer: Optimiser, whose per-parameter tensors are saved.
        progress: JSON-serialisable values: step, seconds and loss curve so far.
        average: Averaged weights, if there are any.
        beside: Module that is trained together with the network, saved likewise.

    Raises:
        OSError: The file cannot be written; the old one is unchanged.
    """
    tensors = {f"model/{k}": _copy(v) for k, v in model.state_dict().items()}
    if beside is not None:
        for key, value in beside.state_dict().items():
            tensors[f"beside/{key}"] = _copy(value)
    for index, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            if torch.is_tensor(value):
                tensors[f"optimizer/{index}/{name}"] = _copy(value)
    if average is not None:
        tensors |= {f"average/{k}": v.contiguous() for k, v in average.tensors.items()}
    write_atomically(path, save(tensors, metadata={"progress": json.dumps(progress)}))


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor, because safetensors refuses tensors that share their memory."""
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def load_training_state(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None = None,
    beside: nn.Module | None = None,
) -> dict[str, Any]:
    """Restore a saved state.

    Args:
        path: File written by `save_training_state`.
        model: Network, which gets the saved weights.
        optimizer: Optimiser, which gets the saved moments.
        average: Average, which gets the saved averaged weights.
        beside: Module that is trained together with the network, which gets its saved weights.

    Returns:
        The saved progress.

    Raises:
        TrainingStateError: The file is damaged or does not fit the model.
        OSError: The file cannot be read, which does not say that it is damaged.
    """
    content = patiently(path.read_bytes)
    weights: dict[str, dict[str, torch.Tensor]] = {"model": {}, "average": {}, "beside": {}}
    moments: dict[int, dict[str, torch.Tensor]] = {}
    try:
        tensors = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        progress: dict[str, Any] = json.loads(header["__metadata__"]["progress"])
        for key, value in tensors.items():
            kind, _, rest = key.partition("/")
            if kind in weights:
                weights[kind][rest] = value
            else:
                index, _, name = rest.partition("/")
                moments.setdefault(int(index), {})[name] = value
        model.load_state_dict(weights["model"])
        if average is not None:
            average.restore(weights["average"])
        if beside is not None:
            beside.load_state_dict(weights["beside"])
    except MemoryError:
        raise
    except Exception as error:  # safetensors raises several kinds of errors
        raise TrainingStateError(f"cannot resume from {path}: {error}") from error
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": moments, "param_groups": groups})
    return progress
