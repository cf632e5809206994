"""The one place that reads files of `torch.save`: tensors and plain containers, never code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch


def read_torch_file(path: Path) -> Any:
    """Read a .pth or .pt file that holds nothing but tensors and plain Python containers.

    Raises:
        ValueError: It holds something else, which would take running code from the file, or it is
            no such file.
    """
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's error, zip's, torch's: whatever is wrong with the file
        reason = str(error).split("Please file an issue")[0].strip().splitlines()
        raise ValueError(
            f"{path} cannot be read as weights alone ({reason[0] if reason else error!r}); save "
            "the tensors without the program's own objects: torch.save(model.state_dict(), FILE)"
        ) from error
