"""Tensors from files, and the proof that they are a network's: names and shapes, all of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file; nothing else is read, for a pickle may run any code.

    Raises:
        ValueError: There is no such file, or it is not a safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights must be in an existing file; there is no {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file: {error} (a .pth of a source that you trust: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), ...))"
        ) from error


def load_strictly(
    module: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path, target: str
) -> None:
    """Load tensors that are the module's, each of them; BatchNorm's counters may be missing.

    Args:
        module: Filled in place, or left as it was if an error is raised.
        tensors: By the module's own names.
        source: Where they come from, for the message.
        target: What the module is, for the message.

    Raises:
        ValueError: Tensors are missing, left over or of another shape; their names are given.
    """
    wanted = module.state_dict()
    missing = [k for k in wanted if k not in tensors and not k.endswith("num_batches_tracked")]
    left_over = [key for key in tensors if key not in wanted]
    reshaped = [
        f"{key} {tuple(tensors[key].shape)} instead of {tuple(wanted[key].shape)}"
        for key in wanted
        if key in tensors and tensors[key].shape != wanted[key].shape
    ]
    problems = {"missing": missing, f"not in the {target}": left_over, "other shape": reshaped}
    parts = [f"{what}: {', '.join(keys)}" for what, keys in problems.items() if keys]
    if parts:
        raise ValueError(f"{source} does not fit the {target}; " + "; ".join(parts))
    module.load_state_dict({key: tensors.get(key, old) for key, old in wanted.items()})
