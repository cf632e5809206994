"""What it takes to turn one naming of tensors into another: rename, drop, split."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

Tensors = dict[str, Tensor]
Rewrites = Sequence[tuple[str, str]]
"""Regular expressions and what replaces their matches, applied one after the other."""


def rename(tensors: Mapping[str, Tensor], rewrites: Rewrites) -> Tensors:
    """Rewrite every name.

    Raises:
        ValueError: Two tensors would have one name.
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
    """Leave out the tensors in whose name a regular expression is found."""
    joined = re.compile("|".join(patterns))
    return {name: tensor for name, tensor in tensors.items() if not joined.search(name)}


def split(
    tensors: Mapping[str, Tensor],
    pattern: str,
    parts: Sequence[str],
    *,
    sizes: Sequence[int] = (),
    dim: int = 0,
) -> Tensors:
    """Split each tensor whose name matches into several; others pass.

    Args:
        tensors: Any.
        pattern: A regular expression.
        parts: What replaces the match in the name, for each part.
        sizes: Of the parts but the first one, which has the rest; none: all are equal.
        dim: The axis; a tensor without any (the counter of a BatchNorm) is repeated.
    """
    divided: Tensors = {}
    for name, tensor in tensors.items():
        if not re.search(pattern, name):
            divided[name] = tensor
            continue
        names = [re.sub(pattern, part, name) for part in parts]
        if tensor.ndim == 0:
            values: Sequence[Tensor] = (tensor,) * len(parts)
        elif sizes:
            values = torch.split(tensor, [tensor.shape[dim] - sum(sizes), *sizes], dim)
        else:
            values = tensor.chunk(len(parts), dim)
        divided.update(zip(names, values, strict=True))
    return divided
