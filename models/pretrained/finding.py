"""Finds a network's tensors in any checkpoint: nested, prefixed, averaged, or renamed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from models.files.torch_files import read_torch_file
from models.files.weight_files import load_strictly, read_tensors
from models.foreign import ForeignNetwork
from models.network import SegmentationNetwork, name_output_layers
from models.pretrained.loading import NAMINGS
from models.pretrained.renaming import Tensors, drop
from models.tiny_weights import SMALLEST, flush_tiny_weights

AVERAGED = ("ema", "model_ema", "state_dict_ema", "ema_state_dict", "ema_model", "params_ema",
            "shadow")  # fmt: skip
NESTED = (*AVERAGED, "state_dict", "model_state_dict", "model_state", "model", "net", "network",
          "params", "weights", "module")  # fmt: skip
"""Entries that may hold the tensors; the first one that holds any is used. Averaged weights (EMA)
come before those of the last step, because trainings report the scores of averaged weights.
"""

PREFIXES = ("ema.", "ema_model.", "shadow.", "module.", "model.", "_orig_mod.", "net.", "network.")

_logger = logging.getLogger(__name__)


def load_weights(
    model: SegmentationNetwork, path: str | Path, *, new_classes: bool = False
) -> None:
    """Load all weights of a network from a third-party file; every tensor must match.

    The file is a safetensors file or one of `torch.save`. The tensors may be in a nested entry
    (`NESTED`), have prefixes (`PREFIXES`), and have the names of a known source
    (`models.pretrained.NAMINGS`). Tiny weights become zero (`models.tiny_weights`).

    Args:
        model: Unpruned network from `models.create_model`; unchanged if an error is raised.
        path: Path of the file.
        new_classes: Whether to leave the class layers out, so that they keep their initial weights;
            they may have another size in the file.

    Raises:
        ValueError: The file does not exist, or tensors are missing, unexpected or of another shape
            (the message names them).
    """
    path = Path(path)
    tensors = read_weights(path)
    target: nn.Module = model.network if isinstance(model, ForeignNetwork) else model
    best = min(_variants(model, target, tensors), key=lambda found: _count_faults(target, found))
    if not has_auxiliary_heads(target):
        best = drop(best, (r"^auxiliary_head",))
    expected = target.state_dict()
    others = {k for k, t in best.items() if k in expected and expected[k].shape != t.shape}
    if others or new_classes:
        best = _leave_out_classes(model, target, best, others, path, allowed=new_classes)
    load_strictly(target, best, source=path, target=model.name or "network")
    if count := flush_tiny_weights(target):
        _logger.warning(
            "%s: %d of its weights are below %g in magnitude and were set to zero, because CPUs "
            "compute slowly with such numbers; outputs stay the same within rounding",
            path, count, SMALLEST,
        )  # fmt: skip


def has_auxiliary_heads(module: nn.Module) -> bool:
    """Whether a network was built with auxiliary heads."""
    return any(key.startswith("auxiliary_head") for key in module.state_dict())


def read_weights(path: Path) -> Tensors:
    """Read the tensors of a file by name, from the entry that holds them.

    Raises:
        ValueError: The file does not exist or holds no tensors.
    """
    if not path.is_file():
        raise ValueError(f"weights must be in an existing file; there is no {path}")
    content: Any = read_tensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
    entry, tensors = _find_tensors(content)
    if not tensors:
        held = ", ".join(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise ValueError(
            f"{path} must hold tensors by name, or in one of the entries {', '.join(NESTED)}; it "
            f"holds {held}"
        )
    if entry:
        _logger.info("%s: using the weights in its entry %s", path, entry)
    last_step = {key: value for key, value in content.items() if key not in AVERAGED}
    other, whole = _find_tensors(last_step)
    if tensors.keys() < whole.keys():  # an average of the parameters alone, without statistics
        _logger.info("%s: using %s for the tensors that %s lacks", path, other or "its rest", entry)
        return whole | tensors
    return tensors


def _find_tensors(content: Any) -> tuple[str, Tensors]:
    """Return the tensors of the first nested entry that holds any, and the name of the entry."""
    if not isinstance(content, Mapping):
        return "", {}
    tensors = {str(k): v for k, v in content.items() if isinstance(v, Tensor)}
    if len(tensors) <= len(content) // 2:
        for key in NESTED:
            inner, found = _find_tensors(content.get(key))
            if any(tensor.ndim for tensor in found.values()):
                return f"{key}.{inner}".rstrip("."), found
    return "", tensors


def _variants(model: SegmentationNetwork, target: nn.Module, tensors: Tensors) -> Iterator[Tensors]:
    """Yield the tensors under each set of names that may match the network."""
    conversions: list[Callable[[Tensors], Tensors]] = [
        convert[model.name] for convert in NAMINGS.values() if model.name in convert
    ]
    yield from _find_copies(target, tensors)
    seen: set[frozenset[str]] = set()
    pending = [tensors]
    while pending:
        found = pending.pop(0)
        if frozenset(found) in seen:
            continue
        seen.add(frozenset(found))
        yield found
        for convert in conversions:
            try:
                converted = convert(found)
            except (ValueError, KeyError):  # the tensors do not have that naming
                continue
            yield converted
        stripped = [_strip(found, prefix) for prefix in PREFIXES]
        pending += [some for some in stripped if len(some) > len(found) // 2]


def _find_copies(target: nn.Module, tensors: Tensors) -> Iterator[Tensors]:
    """Yield each complete copy of the network that the tensors hold under a prefix.

    Averaged weights come first, then those under one of `PREFIXES`.
    """
    needed = {key for key in target.state_dict() if not key.endswith("num_batches_tracked")}
    probe = min(needed, default="")
    prefixes = [key.removesuffix(probe) for key in tensors if key.endswith(f".{probe}")]
    prefixes.sort(
        key=lambda prefix: ("ema" not in re.split(r"[._]", prefix), prefix not in PREFIXES)
    )
    stripped = {prefix: _strip(tensors, prefix) for prefix in prefixes}
    copies = {prefix: found for prefix, found in stripped.items() if needed <= found.keys()}
    if len(copies) > 1:
        _logger.warning("using the first of several copies of the network: %s", ", ".join(copies))
    yield from copies.values()


def _strip(tensors: Tensors, prefix: str) -> Tensors:
    """Remove a prefix and the tensors without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _count_faults(target: nn.Module, tensors: Tensors) -> int:
    expected = target.state_dict()
    missing = sum(k not in tensors for k in expected if not k.endswith("num_batches_tracked"))
    return missing + sum(key not in expected for key in tensors)


def _leave_out_classes(
    model: SegmentationNetwork, target: nn.Module, tensors: Tensors, others: set[str], path: Path,
    *, allowed: bool,
) -> Tensors:  # fmt: skip
    """Keep the network's own class layers if the file has other classes, or if that is allowed."""
    expected = target.state_dict()
    names = name_output_layers(model, target)
    own = {key for key in expected if key.rpartition(".")[0] in names}
    if allowed:  # the file need not have them
        tensors = {key: expected[key] for key in own} | dict(tensors)
    if _count_faults(target, tensors) or (others and not own & others):
        return tensors  # `load_strictly` names all of them
    sizes = ", ".join(
        f"{k} {tuple(tensors[k].shape)} instead of {tuple(expected[k].shape)}"
        for k in sorted(others)
    )
    if others - own:
        raise ValueError(
            f"{path} does not fit the {model.name or 'network'}, whose inner layers depend on the "
            f"number of classes too: {sizes}; if it tells other classes apart, say how many "
            "outputs it has (num_outputs) and which of them are the classes (outputs)"
        )
    if not allowed:
        raise ValueError(
            f"{path} has other classes than the {model.name or 'network'}: {sizes}; state how many "
            "outputs it has (num_outputs) and which of them are the classes (outputs), or let the "
            "class layers be initialised anew (new_classes)"
        )
    if not own:
        raise ValueError(
            f"the layers of the {model.name or 'network'} that give the classes cannot be told "
            "from the others, so they cannot be initialised anew (new_classes)"
        )
    _logger.warning("%s: class layers are initialised anew: %s", path, sizes or ", ".join(names))
    return {key: expected[key] if key in own else tensor for key, tensor in tensors.items()}
