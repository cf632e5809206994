"""Folding BatchNorm into the convolution before it: the same function, fewer passes over memory."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from models.torch_internals import count_changes

LARGEST_CHANGE = 0.03  # of the output's norm: more than rounding in 16 bits, less than a wrong fold

logger = logging.getLogger(__name__)


class _Pair(NamedTuple):
    """A convolution and the BatchNorm that normalises its output.

    Attributes:
        convolution: The convolution.
        batchnorm: The BatchNorm.
        names: All names of the BatchNorm, because a module may be registered under several.
    """

    convolution: nn.Conv2d
    batchnorm: nn.BatchNorm2d
    names: list[str]


@torch.inference_mode(mode=False)  # `count_changes` cannot count in inference mode
@torch.no_grad()
def fold_batchnorms(model: nn.Module, example_input: Tensor) -> int:
    """Fold, in place, each BatchNorm that directly follows a convolution.

    The pairs are found in one forward pass, and the output is compared before and after. A pair
    that changes it, because the convolution's output is also read elsewhere or because the
    convolution computes with other weights than its own, stays as it is. The folded network is for
    inference only and no longer matches the structure of its checkpoint.

    Args:
        model: Network in eval mode that returns one tensor.
        example_input: An input that the network accepts, on its device.

    Returns:
        Number of BatchNorms that were folded.

    Raises:
        ValueError: The network is in train mode.
    """
    if model.training:
        raise ValueError("the network must be in eval mode to be folded, got one in train mode")
    if not any(isinstance(m, nn.BatchNorm2d) and _has_statistics(m) for m in model.modules()):
        return 0
    pairs, expected = _find_pairs(model, example_input)

    def is_same() -> bool:
        # Compare norms, not maxima: in a network that unpools, rounding moves single values to a
        # neighbouring position.
        change = (model(example_input) - expected).norm() / expected.norm().clamp_min(1e-6)
        return bool(change <= LARGEST_CHANGE)

    count = _fold(model, pairs, is_same)
    if count < len(pairs):
        logger.warning(
            "%d of %d BatchNorms are not folded, because that changes the output",
            len(pairs) - count, len(pairs),
        )  # fmt: skip
    return count


def _fold(model: nn.Module, pairs: list[_Pair], is_same: Callable[[], bool]) -> int:
    """Fold the pairs that leave the output as it is, and return their number.

    If all pairs together change the output, each half is tried in the same way.
    """
    if not pairs:
        return 0
    before = [(convolution.weight, convolution.bias) for convolution, *_ in pairs]
    for convolution, batchnorm, names in pairs:
        convolution.weight, convolution.bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, cast("Tensor", batchnorm.running_mean),
            cast("Tensor", batchnorm.running_var), batchnorm.eps, batchnorm.weight, batchnorm.bias,
        )  # fmt: skip
        # timm's BatchNorms contain their activation.
        rest = [m for m in batchnorm.children() if not isinstance(m, nn.Identity)]
        _replace(model, names, rest[0] if len(rest) == 1 else nn.Sequential(*rest))
    if is_same():
        return len(pairs)
    for (convolution, batchnorm, names), (weight, bias) in zip(pairs, before, strict=True):
        convolution.weight, convolution.bias = weight, bias
        _replace(model, names, batchnorm)
    if len(pairs) == 1:
        return 0
    middle = len(pairs) // 2
    return _fold(model, pairs[:middle], is_same) + _fold(model, pairs[middle:], is_same)


def _replace(model: nn.Module, names: list[str], module: nn.Module) -> None:
    for name in names:
        model.set_submodule(name, module)


def _find_pairs(model: nn.Module, example_input: Tensor) -> tuple[list[_Pair], Tensor]:
    """Pair convolutions and BatchNorms that are called once each, one right after the other.

    Returns:
        The pairs, and the network's output.
    """
    outputs: dict[int, tuple[nn.Conv2d, weakref.ref[Tensor], int]] = {}
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def note_convolution(layer: nn.Conv2d, _: object, output: Tensor) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        # Weak, so that no output is held in memory.
        outputs[id(output)] = layer, weakref.ref(output), count_changes(output)

    def note_batchnorm(layer: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        if inputs and id(inputs[0]) in outputs:
            convolution, output, changes = outputs.pop(id(inputs[0]))
            is_output = output() is inputs[0] and count_changes(inputs[0]) == changes
            if is_output and _can_be_folded(convolution, layer):
                found.append((convolution, layer))

    hooks = []
    names: dict[nn.Module, list[str]] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for module in names:
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(note_batchnorm))
    output = model(example_input)
    for hook in hooks:
        hook.remove()
    pairs = [
        _Pair(convolution, batchnorm, names[batchnorm])
        for convolution, batchnorm in found
        if calls[convolution] == calls[batchnorm] == 1
    ]
    return pairs, output


def _can_be_folded(convolution: nn.Conv2d, batchnorm: nn.BatchNorm2d) -> bool:
    """Whether there are statistics to fold, and plain parameters to fold them into."""
    parameters = dict(convolution.named_parameters(recurse=False))
    is_plain = all(
        getattr(convolution, name) is parameters.get(name) for name in ("weight", "bias")
    )
    return is_plain and _has_statistics(batchnorm)


def _has_statistics(batchnorm: nn.BatchNorm2d) -> bool:
    return batchnorm.running_mean is not None and batchnorm.running_var is not None
