"""The only place that reads files of `torch.save`, and only tensors and plain containers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def read_torch_file(path: Path) -> Any:
    """Read a .pth or .pt file that holds only tensors and plain Python containers.

    Raises:
        ValueError: The file holds other objects, which could run code when loaded, or is not such a
            file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch raise their own error types
        reason = str(error).split("Please file an issue")[0].strip().splitlines()
        raise ValueError(
            f"{path} cannot be read as a file of tensors only "
            f"({reason[0] if reason else error!r}); save "
            "the tensors without the program's own objects: torch.save(model.state_dict(), FILE)"
        ) from error
