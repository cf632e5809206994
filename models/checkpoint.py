"""Checkpoints: one safetensors file with a network's structure, tensors and metadata.

The metadata of the header hold five strings: `format`, `version`, `structure` (JSON, see
`models.structure.Structure`), `normalization` (JSON, see `models.normalization`) and
`metadata` (the caller's JSON). Nothing is unpickled, code that only the file names is not imported,
and a pruned network loads without being pruned again.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from models.files.atomic_file import write_atomically
from models.network import SegmentationNetwork
from models.normalization import IMAGENET, Normalization
from models.resolving import UntrustedNetworkError
from models.structure import (
    Structure,
    build_empty,
    describe_structure,
    get_shared_parameters,
    share_parameters,
)
from models.tiny_weights import flush_tiny_weights

FORMAT = "segfront"
VERSION = "1"

_logger = logging.getLogger(__name__)


class CheckpointError(RuntimeError):
    """A file cannot be read as a checkpoint; the message names the file and the reason."""


def save_checkpoint(
    path: str | Path,
    model: SegmentationNetwork,
    metadata: Mapping[str, Any] | None = None,
    *,
    half: bool = False,
) -> None:
    """Write a network atomically: the path holds either the old file or the complete new one.

    Args:
        path: Path of the file, by convention ending in `.safetensors`; missing folders are made.
        model: Network from `models.create_model`, pruned or not, on any device. Buffers are stored
            exactly, the counters of BatchNorm included.
        metadata: JSON-serialisable values, which `read_metadata` returns.
        half: Store floating-point tensors rounded to float16, which halves the file. Tensors with
            values beyond the range of float16 are stored as they are.

    Raises:
        ValueError: The network does not come from `models.create_model`, or the metadata cannot be
            written as JSON.
    """
    path = Path(path)
    header = {
        "format": FORMAT,
        "version": VERSION,
        "structure": describe_structure(model).to_json(),
        "normalization": json.dumps(model.normalization.to_json()),
        "metadata": _to_json(metadata or {}),
    }
    tensors = {
        key: tensor.detach().cpu().contiguous().clone()
        for key, tensor in model.state_dict().items()
    }
    if half:
        tensors = _halve(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, save(tensors, metadata=header))


def load_checkpoint(path: str | Path, factory: str | None = None) -> SegmentationNetwork:
    """Read a network with the widths that it was saved with, in eval mode on the CPU.

    Its floating-point tensors are float32, also if the file holds float16. Tiny weights become zero
    (`models.tiny_weights`).

    Args:
        path: File that `save_checkpoint` wrote.
        factory: Name of the foreign network that the file may load code of
            ("package.module:factory" or "path/to/file.py:factory"). Without it such a file is
            refused, unless the network's package is listed in the environment variable
            SEGFRONT_MODULES or the process has allowed the network itself
            (`models.resolving.allow`).

    Raises:
        UntrustedNetworkError: The file names code that the caller did not allow; no code was
            imported.
        CheckpointError: The file is missing, corrupt, from another program or of another version,
            or its tensors do not fit its structure.
    """
    path = Path(path)
    header = _read_header(path)
    try:
        model = build_empty(
            Structure.from_json(header["structure"]), given=[factory] if factory else []
        )
        shared = get_shared_parameters(model)
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: _widen(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
        model.load_state_dict(tensors, assign=True)
        share_parameters(model, shared)
        model.normalization = _read_normalization(header)
    except UntrustedNetworkError as error:
        raise UntrustedNetworkError(f"{path}: {error}") from error
    except (ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    without = [key for key, buffer in model.named_buffers() if buffer.is_meta]
    if without:
        raise CheckpointError(f"{path} has no tensors for {', '.join(without[:5])}")
    flush_tiny_weights(model)
    return model.eval()


def _halve(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    halved = {k: t.half() if t.is_floating_point() else t for k, t in tensors.items()}
    beyond = [k for k, t in tensors.items() if (halved[k].isinf() & ~t.isinf()).any()]
    if beyond:
        _logger.warning("beyond the range of float16, so stored as they are: %s", ", ".join(beyond))
    return {k: tensors[k] if k in beyond else t for k, t in halved.items()}


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.float16 else tensor.clone()


def is_checkpoint(path: str | Path) -> bool:
    """Whether a file is a segfront checkpoint rather than any other safetensors file."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            return (file.metadata() or {}).get("format") == FORMAT
    except (SafetensorError, OSError):
        return False


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Read only the caller's metadata, without the tensors.

    Raises:
        CheckpointError: As for `load_checkpoint`.
    """
    header = _read_header(Path(path))
    try:
        metadata = json.loads(header["metadata"])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} has no readable metadata: {error!r}") from error
    if not isinstance(metadata, dict):
        raise CheckpointError(f"{path} has metadata that are not a mapping: {metadata!r}")
    return metadata


def read_structure(path: str | Path) -> Structure:
    """Read only the structure, without the tensors.

    Raises:
        CheckpointError: As for `load_checkpoint`.
    """
    try:
        return Structure.from_json(_read_header(Path(path))["structure"])
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_normalization(header: dict[str, str]) -> Normalization:
    """Read the network's normalisation, which older files hold in the caller's metadata."""
    if "normalization" in header:
        return Normalization.from_json(json.loads(header["normalization"]))
    stated = json.loads(header.get("metadata", "{}"))
    if "normalization" not in stated:
        return IMAGENET
    return Normalization.from_metadata(stated)


def _read_header(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise CheckpointError(f"{path} is not a file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a complete safetensors file: {error}") from error
    if header.get("format") != FORMAT or "structure" not in header:
        raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of {FORMAT}")
    if header.get("version") != VERSION:
        found = header.get("version")
        raise CheckpointError(f"{path} has version {found!r}, but this program reads {VERSION!r}")
    return header


def _to_json(metadata: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(metadata), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata must be JSON-serialisable: {error}") from error
