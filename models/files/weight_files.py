"""Reads tensors from files and loads them strictly: all names and shapes must match."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn


def read_tensors(path: str | Path) -> dict[str, Tensor]:
    """Read a safetensors file; other formats are refused, because a pickle can run any code.

    Raises:
        ValueError: There is no such file, or it is not a safetensors file.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights must be the path of an existing file; there is no {path}")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a safetensors file: {error} (to convert a .pth file from a source that "
            "you trust: "
            "safetensors.torch.save_file(torch.load(path, weights_only=True), ...))"
        ) from error


def load_strictly(
    module: nn.Module, tensors: Mapping[str, Tensor], *, source: str | Path, target: str
) -> None:
    """Load tensors whose names and shapes all match; only BatchNorm's counters may be missing.

    Args:
        module: Module to fill in place; unchanged if an error is raised.
        tensors: Tensors by the module's own names.
        source: Origin of the tensors, for the error message.
        target: Name of the module, for the error message.

    Raises:
        ValueError: Tensors are missing, unexpected or of another shape; the message names them.
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
