"""Rules that follow channels through PyTorch's operations.

An operation without a rule may do anything, so the channels that it reads must stay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from models.channels.equivalence import ChannelPartition, Labels
from models.torch_internals import describe_operation, tree_leaves, tree_map_only

_logger = logging.getLogger(__name__)

_Arguments = Mapping[str, Any]


class LabelledTensors(Protocol):
    """The part of `models.channels.tracing.ChannelTrace` that the rules use."""

    partition: ChannelPartition

    @property
    def place(self) -> str:
        """Name of the running module, for messages."""

    def get_labels(self, tensor: Tensor) -> Labels:
        """Return a tensor's labels, with as many dimensions as the tensor."""

    def set_labels(self, tensor: Tensor, labels: Labels, *, nonnegative: bool = False) -> None:
        """Set a tensor's labels."""

    def is_nonnegative(self, tensor: Tensor) -> bool:
        """Whether no element can be below zero."""


_Rule = Callable[[LabelledTensors, str, _Arguments, Any, Any], None]


def follow(trace: LabelledTensors, func: Any, args: Any, kwargs: Any, result: Any) -> None:
    """Label the result of an operation.

    Args:
        trace: Trace that holds the labels.
        func: Operation, one of `torch.ops.aten`.
        args: Positional arguments of the operation.
        kwargs: Keyword arguments of the operation.
        result: Return value of the operation.
    """
    name, overload, names = describe_operation(func)
    arguments = {**dict(zip(names, args, strict=False)), **kwargs}
    plain = name.removesuffix("_") if name.endswith("_") and not name.endswith("__") else name
    rule = _RULES.get(plain)
    if overload == "other" or (rule is None and torch.Tag.pointwise in func.tags):
        rule = _combine
    if rule is None:
        rule = _keep
    try:
        rule(trace, plain, arguments, func, result)
    except (LookupError, RuntimeError, TypeError, ValueError, StopIteration) as error:
        _logger.debug("%s in %s is not as its rule expects: %r", func, trace.place, error)
        _keep(trace, plain, arguments, func, result)


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _keep(trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any) -> None:
    """Unknown operation: all channels that it reads must stay."""
    del func, result
    for tensor in _tensors(list(arguments.values())):
        reason = _WHY.get(name, f"the operation {name} cannot be followed") + f" in {trace.place}"
        trace.partition.fix(trace.get_labels(tensor), reason)


_WHY = {
    "native_group_norm": "GroupNorm normalises over its channels",
    "native_batch_norm": "a normalisation that is no BatchNorm2d or InstanceNorm2d layer reads it",
    "convolution": "a convolution that is no Conv2d or ConvTranspose2d layer reads it",
    "as_strided": "memory is read by number",
    "gather": "channels are picked by number",
    "index": "channels are picked by number",
}


def _combine(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Elementwise operation: channels at the same position are removed together."""
    del func
    if not isinstance(result, Tensor):
        return
    ndim = result.ndim
    labels = torch.zeros((1,) * ndim, dtype=torch.float64)
    read = [t for t in _tensors(list(arguments.values())) if t.ndim]
    parts = []
    for tensor in read:
        own = trace.get_labels(tensor)
        parts.append((tensor, own.reshape((1,) * (ndim - own.ndim) + own.shape)))
    are_many = any(own.numel() > 1 for _, own in parts)
    for _, own in parts:
        if own.numel() > 1 or not are_many:
            labels = _overlay(trace, labels, own)
    for tensor, own in parts:
        if own.numel() == 1 and are_many and own.item():
            _meet_all(trace, name, arguments, tensor, labels)
        _fix_against_constants(trace, tensor, own, labels)
    signs = [trace.is_nonnegative(tensor) for tensor in read]
    if name in ("clamp_min", "clamp", "hardtanh"):
        low = arguments.get("min", arguments.get("min_val"))
        positive = all(signs) or (isinstance(low, int | float) and low >= 0)
    elif name in ("add", "mul", "div", "maximum", "where", "pow", "sqrt"):
        positive = bool(signs) and all(signs) and not _has_negative(arguments)
    else:
        positive = name in _NONNEGATIVE
    trace.set_labels(result, labels, nonnegative=positive)


_NONNEGATIVE = {"relu", "sigmoid", "hardsigmoid", "abs", "exp", "square", "relu6"}


_WEIGHTS = {
    "mul": ("self", "other"),
    "div": ("other",),
    "where": ("condition",),
    "lerp": ("weight",),
}
"""Arguments that weight the others: zero stays zero, whatever their value is."""


def _meet_all(
    trace: LabelledTensors, name: str, arguments: _Arguments, single: Tensor, labels: Labels
) -> None:
    """Combine one channel with many: it stays; they need not if it only weights them."""
    reason = f"one channel meets all others in {trace.place}"
    trace.partition.fix(trace.get_labels(single), reason)
    if not any(arguments.get(key) is single for key in _WEIGHTS.get(name, ())):
        trace.partition.fix(labels, reason)


def _has_negative(arguments: _Arguments) -> bool:
    return any(isinstance(v, int | float) and v < 0 for v in arguments.values())


def _overlay(trace: LabelledTensors, first: Labels, second: Labels) -> Labels:
    trace.partition.join(first, second)
    return torch.where(first != 0, first, second)


def _fix_against_constants(
    trace: LabelledTensors, tensor: Tensor, own: Labels, labels: Labels
) -> None:
    """Keep channels that are combined with an unlabelled tensor of as many values, as a parameter.

    A dimension that was expanded (stride 0) has one value, which fits any number of channels.
    """
    lead = labels.ndim - tensor.ndim
    for dim in range(labels.ndim):
        if dim < lead or labels.shape[dim] == 1 or own.shape[dim] > 1:
            continue
        size, stride = tensor.shape[dim - lead], tensor.stride(dim - lead)
        if size > 1 and stride != 0:
            what = "a bare parameter" if isinstance(tensor, torch.nn.Parameter) else "a tensor"
            reason = f"{what} of fixed channels meets it in {trace.place}"
            trace.partition.fix(labels, reason)


def _move(trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any) -> None:
    """Only moves elements: the labels are moved in the same way."""
    source = next(t for t in _tensors(list(arguments.values())))
    labels = trace.get_labels(source)
    if not bool((labels != 0).any()):
        return
    if name in _RESHAPES:
        if labels.numel() > 1:
            moved = labels.expand(source.shape).reshape(result.shape)
            _square(trace, labels, source.shape, moved)
        else:
            moved = labels.reshape((1,) * result.ndim)
        outputs, values = [result], [moved]
    else:
        full = labels.expand(source.shape)
        replaced = tree_map_only(Tensor, lambda t: full if t is source else t, dict(arguments))
        values = _tensors(func(**replaced))
        outputs = _tensors(result)
    for output, value in zip(outputs, values, strict=True):
        trace.set_labels(output, value, nonnegative=trace.is_nonnegative(source))


_RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "_reshape_copy"}


def _square(trace: LabelledTensors, before: Labels, shape: torch.Size, moved: Labels) -> None:
    """Where a view splits a dimension of channels in two, keep the parts equally wide.

    The view does not say which of the two sizes is the number of parts; we take the smaller.
    """
    was = sum(size > 1 for size in before.shape)
    now = [d for d, size in enumerate(shrink_sizes(moved)) if size > 1]
    if len(now) <= was:
        return
    for dim in sorted(now, key=lambda d: moved.shape[d])[: len(now) - was]:
        trace.partition.join_across(moved, dim)


def shrink_sizes(labels: Labels) -> list[int]:
    """Return the sizes of labels after constant dimensions are reduced to size 1."""
    return [
        1 if bool((labels == labels.narrow(d, 0, 1)).all()) else size
        for d, size in enumerate(labels.shape)
    ]


def _join_parts(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Concatenate or stack; unlabelled parts keep their channels."""
    tensors = [t for t in arguments["tensors"] if t.numel()]
    dim = int(arguments.get("dim", 0))
    if not any(bool((trace.get_labels(t) != 0).any()) for t in tensors):
        return
    full = []
    for tensor in tensors:
        labels = trace.get_labels(tensor)
        if name == "cat" and not bool((labels != 0).any()):
            shape = [1] * tensor.ndim
            shape[dim] = tensor.shape[dim]
            labels = trace.partition.add(tensor.shape[dim]).view(shape)
            trace.partition.fix(labels, f"its neighbours in {trace.place} are constants")
        full.append(labels.expand(tensor.shape))
        if name == "stack":  # the parts must stay equally wide
            trace.partition.join(labels, trace.get_labels(tensors[0]))
    signs = all(trace.is_nonnegative(t) for t in tensors)
    trace.set_labels(result, func(full, dim), nonnegative=signs)


def _slice(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Take a slice; a slice of the channels can be followed only as one of several equal parts."""
    source: Tensor = arguments["self"]
    labels = trace.get_labels(source)
    dim = int(arguments.get("dim", 0)) % max(1, source.ndim)
    size = source.shape[dim]
    taken = [t.shape[dim] for t in _tensors(result)] if name != "select" else [1]
    if labels.shape[dim] > 1 and taken != [size]:
        inner = [s for d, s in enumerate(labels.shape) if d != dim and s > 1]
        if name in ("select", "unbind"):
            is_even = bool(inner)
            width = 1
        else:
            width = taken[0]
            first = _start_of(arguments, size) if name == "slice" else 0
            is_even = width > 1 and set(taken) == {width} and size % width == first % width == 0
            is_even &= int(arguments.get("step", 1)) == 1
        if is_even:
            parts = _split_dim(labels, dim, width)
            trace.partition.join_across(parts, dim)
        else:
            reason = f"channels are picked by number in {trace.place}"
            trace.partition.fix(labels, reason)
    _move(trace, name, arguments, func, result)


def _split_dim(labels: Labels, dim: int, width: int) -> Labels:
    """Split a dimension into (parts, width)."""
    return labels.reshape(*labels.shape[:dim], -1, width, *labels.shape[dim + 1 :])


def _start_of(arguments: _Arguments, size: int) -> int:
    start = arguments.get("start") or 0
    return max(0, start + size) if start < 0 else int(start)


def _pick(trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any) -> None:
    """Index or roll along a dimension, with indices that pruning does not change."""
    source: Tensor = arguments["self"]
    labels = trace.get_labels(source)
    dims = arguments.get("dims", arguments.get("dim", range(source.ndim)))
    dims = [dims] if isinstance(dims, int) else list(dims)
    if any(labels.shape[d] > 1 for d in dims or range(source.ndim)):
        trace.partition.fix(labels, f"channels are picked by number in {trace.place}")
    _move(trace, name, arguments, func, result)


def _pad(trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any) -> None:
    """Pad: along spatial dimensions the channels are unchanged."""
    del func
    source: Tensor = arguments["self"] if "self" in arguments else arguments["input"]
    labels = trace.get_labels(source)
    changed = [d for d in range(source.ndim) if source.shape[d] != result.shape[d]]
    if any(labels.shape[d] > 1 for d in changed):
        trace.partition.fix(labels, f"{name} adds channels in {trace.place}")
        return
    sign = trace.is_nonnegative(source) and (arguments.get("value") or 0) >= 0
    trace.set_labels(result, labels, nonnegative=sign)


def _per_channel(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Computes each channel from itself alone: pooling, resizing, sampling."""
    source, *others = _tensors(list(arguments.values()))
    labels = trace.get_labels(source)
    if any(size > 1 for size in labels.shape[-2:]):
        _keep(trace, name, arguments, func, result)
        return
    if name == "max_unpool2d":
        labels = _overlay(trace, labels, trace.get_labels(others[0]))
    sign = trace.is_nonnegative(source) and "bicubic" not in name
    for output in _tensors(result):
        trace.set_labels(output, labels, nonnegative=sign)


def _reduce(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Reduce along dimensions: sum, mean, maximum and others."""
    del func
    source: Tensor = next(iter(_tensors(list(arguments.values()))))
    labels = trace.get_labels(source)
    dims = arguments.get("dim")
    if dims is None or dims == []:
        dims = range(source.ndim)
    dims = [d % max(1, source.ndim) for d in ([dims] if isinstance(dims, int) else dims)]
    sign = trace.is_nonnegative(source)
    if any(labels.shape[d] > 1 for d in dims):
        norm_order = arguments.get("ord", arguments.get("p", 2)) or 2
        adds = name in ("sum", "nansum") or ("norm" in name and norm_order in (1, 2))
        if not (adds or (name in ("amax", "max") and sign)):
            why = {
                "mean": "a mean over its channels divides by their number",
                "amax": "a maximum is taken over its channels, which may be below zero",
                "max": "a maximum is taken over its channels, which may be below zero",
            }.get(name, f"{name} is taken over its channels")
            trace.partition.fix(labels, f"{why} in {trace.place}")
        labels = torch.zeros((1,) * source.ndim, dtype=torch.float64)
    for dim in dims:
        labels = labels.narrow(dim, 0, 1)
    if not arguments.get("keepdim", False):
        for dim in sorted(dims, reverse=True):
            labels = labels.squeeze(dim)
    for output in _tensors(result):
        if output.ndim == labels.ndim:
            trace.set_labels(output, labels, nonnegative=sign or "norm" in name)


def _normalise(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Softmax and LayerNorm: channels stay independent only if they are not normalised over."""
    del func
    source: Tensor = next(iter(_tensors(list(arguments.values()))))
    labels = trace.get_labels(source)
    if "layer_norm" in name:
        what, count = "LayerNorm normalises over its channels", len(arguments["normalized_shape"])
        dims = list(range(source.ndim - count, source.ndim))
    else:
        what, dims = "softmax is taken over its channels", [int(arguments["dim"])]
    if any(labels.shape[d] > 1 for d in dims):
        trace.partition.fix(labels, f"{what} in {trace.place}")
    trace.set_labels(_tensors(result)[0], labels, nonnegative=name == "_softmax")


def _multiply(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Matrix product: channels that are summed over are joined, others pass through."""
    first, second = (
        (arguments["batch1"], arguments["batch2"]) if name == "baddbmm"
        else (arguments["mat1"], arguments["mat2"]) if name == "addmm"
        else (arguments["self"], arguments["mat2"])
    )  # fmt: skip
    rows, columns = trace.get_labels(first), trace.get_labels(second)
    summed = [labels.shape[d] > 1 for labels, d in ((rows, -1), (columns, -2))]
    mixed = [summed[0] and rows.shape[-2] > 1, summed[1] and columns.shape[-1] > 1]
    if name in ("baddbmm", "addmm") or any(mixed) or summed[0] != summed[1]:
        _keep(trace, name, arguments, func, result)
        return
    if all(summed):
        trace.partition.join(rows.unsqueeze(-1), columns.unsqueeze(-3))
        return
    is_labelled = [bool((labels != 0).any()) for labels in (rows, columns)]
    if all(is_labelled):
        _keep(trace, name, arguments, func, result)
        return
    trace.set_labels(result, rows if is_labelled[0] else columns)


def _shuffle_pixels(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Moves channels into space: the channels of one output channel are removed together."""
    source: Tensor = arguments["self"]
    labels = trace.get_labels(source)
    if any(size > 1 for size in labels.shape[-2:]):
        _keep(trace, name, arguments, func, result)
        return
    if labels.shape[-3] > 1:
        if name == "pixel_shuffle":
            parts = _split_dim(labels, labels.ndim - 3, arguments["upscale_factor"] ** 2)
            trace.partition.join_across(parts, parts.ndim - 3)
            labels = parts.select(-3, 0)
        else:
            labels = labels.repeat_interleave(arguments["downscale_factor"] ** 2, dim=-3)
    trace.set_labels(result, labels, nonnegative=trace.is_nonnegative(source))


def _shuffle_channels(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Interleave groups of channels; the groups stay equally wide."""
    source: Tensor = arguments["self"]
    labels = trace.get_labels(source)
    if labels.shape[1] > 1:
        parts = _split_dim(labels, 1, source.shape[1] // arguments["groups"])
        trace.partition.join_across(parts, 1)
    _move(trace, name, arguments, func, result)


def _gate(trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any) -> None:
    """Gated linear unit: one half of the channels reweights the other."""
    del name, func
    source: Tensor = arguments["self"]
    labels = trace.get_labels(source)
    dim = int(arguments.get("dim", -1)) % source.ndim
    if labels.shape[dim] > 1:
        trace.partition.join_across(_split_dim(labels, dim, source.shape[dim] // 2), dim)
        labels = labels.narrow(dim, 0, source.shape[dim] // 2)
    trace.set_labels(result, labels)


def _copy_like(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Make a tensor with the shape, or some of the sizes, of another."""
    del func
    source: Tensor = arguments["self"] if "self" in arguments else arguments["input"]
    labels = trace.get_labels(source)
    if result.ndim != source.ndim:
        return
    for dim in range(source.ndim):
        if result.shape[dim] != source.shape[dim]:
            labels = labels.narrow(dim, 0, 1) * (0 if labels.shape[dim] > 1 else 1)
    sign = name in ("clone", "_to_copy", "detach", "alias", "native_dropout")
    trace.set_labels(result, labels, nonnegative=sign and trace.is_nonnegative(source))


def _drop(trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any) -> None:
    for output in _tensors(result):
        _copy_like(trace, name, arguments, func, output)


def _overwrite(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Write into a tensor that may have views: the channels that are written must stay."""
    _keep(trace, name, arguments, func, result)


def _ignore(
    trace: LabelledTensors, name: str, arguments: _Arguments, func: Any, result: Any
) -> None:
    """Reads no channels, or returns no tensor."""


_RULES: dict[str, _Rule] = {
    **dict.fromkeys(
        (*_RESHAPES, "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "repeat",
         "numpy_T", "movedim", "unfold"),
        _move,
    ),
    **dict.fromkeys(("cat", "stack"), _join_parts),
    **dict.fromkeys(
        ("slice", "narrow", "split", "split_with_sizes", "unsafe_split", "chunk", "select",
         "unbind"),
        _slice,
    ),
    **dict.fromkeys(("index_select", "roll"), _pick),
    "flip": _move,
    **dict.fromkeys(("channel_shuffle", "native_channel_shuffle"), _shuffle_channels),
    "glu": _gate,
    **dict.fromkeys(
        ("constant_pad_nd", "reflection_pad2d", "replication_pad2d", "reflection_pad1d"), _pad
    ),
    **dict.fromkeys(
        ("avg_pool2d", "max_pool2d", "max_pool2d_with_indices", "adaptive_avg_pool2d",
         "_adaptive_avg_pool2d", "adaptive_max_pool2d", "mkldnn_max_pool2d", "max_unpool2d",
         "upsample_bilinear2d", "_upsample_bilinear2d_aa", "upsample_nearest2d",
         "_upsample_nearest_exact2d", "upsample_bicubic2d", "_upsample_bicubic2d_aa",
         "grid_sampler_2d", "grid_sampler"),
        _per_channel,
    ),
    **dict.fromkeys(
        ("sum", "nansum", "mean", "amax", "amin", "max", "min", "var", "std", "var_mean", "argmax",
         "prod", "linalg_vector_norm", "norm", "logsumexp"),
        _reduce,
    ),
    **dict.fromkeys(("_softmax", "_log_softmax", "native_layer_norm"), _normalise),
    **dict.fromkeys(("mm", "bmm", "addmm", "baddbmm"), _multiply),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffle_pixels),
    **dict.fromkeys(
        ("clone", "_to_copy", "detach", "alias", "lift_fresh", "empty_like", "zeros_like",
         "ones_like", "rand_like", "randn_like", "full_like", "new_empty", "new_zeros", "new_ones",
         "new_full", "bernoulli", "contiguous"),
        _copy_like,
    ),
    **dict.fromkeys(
        ("hardswish", "hardsigmoid", "hardtanh", "relu6", "leaky_relu", "elu", "celu", "selu",
         "gelu", "silu", "mish", "softplus", "threshold", "rrelu", "rrelu_with_noise", "logit",
         "_prelu_kernel", "masked_fill", "lerp", "where", "clamp", "log_sigmoid",
         "log_sigmoid_forward", "fake_quantize_per_tensor_affine", "floor_divide"),
        _combine,
    ),
    "native_dropout": _drop,
    "copy": _overwrite,
    **dict.fromkeys(
        ("_local_scalar_dense", "sym_size", "sym_stride", "equal", "is_nonzero", "zero",
         "uniform", "normal"),
        _ignore,
    ),
}  # fmt: skip
