"""Traces a network as a fixed graph of basic operations, which every version of ONNX has."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class DataDependentError(RuntimeError):
    """The network branches on the values of its tensors, which a fixed graph cannot express."""


class PlainTracing(TorchFunctionMode):
    """Makes code that runs inside it traceable for images of one size.

    Sizes of tensors are Python numbers, so that grids and paddings derived from them become
    constants. Operations that ONNX lacks are replaced by others: averages over a grid that does not
    divide the map by matrix products from both sides, unpooling by a scatter, and sums of channels
    by a convolution.

    Args:
        fixes_sizes: Whether sizes, including the batch size, become constants.

    Raises:
        DataDependentError: The network reads the value of a tensor.
    """

    def __init__(self, *, fixes_sizes: bool = True) -> None:
        super().__init__()
        self.fixes_sizes = fixes_sizes

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.fixes_sizes:
            if func in _SIZE_READERS:
                return _to_numbers(func(*args, **kwargs))
            if func is torch.Tensor.__len__:  # Python wants a number, the tracer gives a tensor
                return _to_numbers(args[0].shape)[0]
            if func in _VALUE_READERS:
                raise DataDependentError(
                    "the network reads the value of a tensor while it runs, which a fixed graph "
                    "cannot express"
                )
        return _REPLACEMENTS.get(func, func)(*args, **kwargs)


class PlainlyTraced(nn.Module):
    """A network that runs within `PlainTracing`.

    Args:
        model: The network.
        fixes_sizes: See `PlainTracing`.
    """

    def __init__(self, model: nn.Module, *, fixes_sizes: bool) -> None:
        super().__init__()
        self.model = model
        self.fixes_sizes = fixes_sizes

    def forward(self, images: Tensor) -> Tensor:
        """Run the network."""
        with PlainTracing(fixes_sizes=self.fixes_sizes):
            logits: Tensor = self.model(images)
        return logits


def _to_numbers(sizes: Any) -> Any:
    """Turn the tensors that represent sizes while PyTorch traces into Python numbers."""
    if isinstance(sizes, tuple):
        return torch.Size([int(size) for size in sizes])
    return int(sizes)


def _average_over_grid(features: Tensor, output_size: Any) -> Tensor:
    """Average (N, C, H, W) over a grid, as `F.adaptive_avg_pool2d` does."""
    height, width = (int(size) for size in features.shape[-2:])
    wanted = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    rows = height if wanted[0] is None else int(wanted[0])
    columns = width if wanted[1] is None else int(wanted[1])
    if height % rows == 0 and width % columns == 0:
        return F.adaptive_avg_pool2d(features, (rows, columns))
    average = partial(_build_averages, dtype=features.dtype, device=features.device)
    return average(height, rows) @ features @ average(width, columns).T


def _build_averages(size: int, cells: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Build the (cells, size) matrix that averages a line over cells, which may overlap by one.

    Source: PyTorch's adaptive pooling: cell i goes from floor(i * size / cells) to
        ceil((i + 1) * size / cells).
    """
    matrix = np.zeros((cells, size), np.float32)  # in NumPy, because PyTorch would trace each step
    for cell in range(cells):
        start, end = cell * size // cells, -(-(cell + 1) * size // cells)
        matrix[cell, start:end] = 1 / (end - start)
    return torch.from_numpy(matrix).to(device, dtype)


def _add_channels(sums: Tensor, dim: int, index: Tensor, source: Tensor) -> Tensor:
    """Do `index_add` over the channels of (N, C, H, W) as a 1x1 convolution with zeros and ones."""
    if dim != 1 or source.ndim != 4:
        return torch.index_add(sums, dim, index, source)
    matrix = np.zeros((int(sums.shape[1]), int(source.shape[1]), 1, 1), np.float32)
    matrix[index.tolist(), np.arange(matrix.shape[1])] = 1
    return sums + F.conv2d(source, torch.from_numpy(matrix).to(source))


def _unpool(
    features: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0,
    output_size: Any = None,
) -> Tensor:  # fmt: skip
    """Scatter values to the given indices, as `F.max_unpool2d` does."""
    batch, channels = features.shape[:2]
    if output_size is None:  # PyTorch's default
        sizes = np.array([int(size) for size in features.shape[-2:]])
        step = np.array(stride or kernel_size)
        output_size = ((sizes - 1) * step - 2 * np.array(padding) + kernel_size).tolist()
    height, width = output_size[-2:]
    empty = torch.zeros_like(features[..., :1, :1]).expand(batch, channels, height, width)
    values, places = features.flatten(2), indices.flatten(2)
    return empty.flatten(2).scatter(2, places, values).view(batch, channels, height, width)


_SIZE_READERS = {torch.Tensor.shape.__get__, torch.Tensor.size}  # type: ignore[attr-defined]
_VALUE_READERS = {
    torch.Tensor.__bool__, torch.Tensor.__int__, torch.Tensor.__float__, torch.Tensor.item,
    torch.Tensor.tolist, torch.Tensor.__index__,
}  # fmt: skip
_REPLACEMENTS: dict[Callable[..., Any], Callable[..., Any]] = {
    F.adaptive_avg_pool2d: _average_over_grid,
    F.max_unpool2d: _unpool,
    torch.Tensor.index_add: _add_channels,
}
