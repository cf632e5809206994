"""Functions that convert one naming of tensors into another: rename, drop, split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

Tensors = dict[str, Tensor]
Rewrites = Sequence[tuple[str, str]]
"""Regular expressions and their replacements, applied one after the other."""


def rename(tensors: Mapping[str, Tensor], rewrites: Rewrites) -> Tensors:
    """Rewrite the name of every tensor.

    Raises:
        ValueError: Two tensors would get the same name.
    """
    renamed: Tensors = {}
    for old, tensor in tensors.items():
        new = old
        for pattern, replacement in rewrites:
            new = re.sub(pattern, replacement, new)
        if new in renamed:
            raise ValueError(f"{old} and another tensor would both be {new}")
        renamed[new] = tensor
    return renamed


def drop(tensors: Mapping[str, Tensor], patterns: Iterable[str]) -> Tensors:
    """Remove the tensors whose names match one of the regular expressions."""
    joined = re.compile("|".join(patterns))
    return {name: tensor for name, tensor in tensors.items() if not joined.search(name)}


def split(
    tensors: Mapping[str, Tensor], pattern: str, parts: Sequence[str], *, dim: int = 0
) -> Tensors:
    """Split each tensor whose name matches into equal parts; others are kept as they are.

    Args:
        tensors: Tensors by name.
        pattern: Regular expression for names.
        parts: Replacement of the match in the name, for each part.
        dim: Dimension to split; tensors without dimensions (counters of BatchNorm) are repeated.
    """
    divided: Tensors = {}
    for name, tensor in tensors.items():
        if not re.search(pattern, name):
            divided[name] = tensor
            continue
        values = tensor.chunk(len(parts), dim) if tensor.ndim else (tensor,) * len(parts)
        divided |= {re.sub(pattern, p, name): v for p, v in zip(parts, values, strict=True)}
    return divided
