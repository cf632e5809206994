"""Folding BatchNorm into the convolution before it: the same function, fewer passes over memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

LARGEST_CHANGE = 0.03  # of the output's norm: more than rounding in 16 bits, less than a wrong fold


@torch.no_grad()
def fold_batchnorms(model: nn.Module, example_input: Tensor) -> int:
    """Fold, in place, each BatchNorm that directly follows a convolution.

    The pairs are found in one forward pass, and the output is compared before and after. The folded
    network is for inference only and no longer matches the structure of its checkpoint.

    Args:
        model: Network in eval mode that returns one tensor.
        example_input: An input that the network accepts, on its device.

    Returns:
        Number of BatchNorms that were folded.

    Raises:
        ValueError: The network is in train mode.
        RuntimeError: The output of the folded network differs, because a convolution's output is
            also read elsewhere.
    """
    if model.training:
        raise ValueError("the network must be in eval mode to be folded, got one in train mode")
    expected = model(example_input)
    pairs = _find_pairs(model, example_input)
    names: dict[nn.Module, list[str]] = {}  # a module may be registered under several names
    for name, module in model.named_modules(remove_duplicate=False):
        names.setdefault(module, []).append(name)
    for convolution, batchnorm in pairs:
        if batchnorm.running_mean is None or batchnorm.running_var is None:
            raise RuntimeError(f"{names[batchnorm][0]} has no running statistics to fold")
        weight, bias = fuse_conv_bn_weights(
            convolution.weight, convolution.bias, batchnorm.running_mean, batchnorm.running_var,
            batchnorm.eps, batchnorm.weight, batchnorm.bias,
        )  # fmt: skip
        convolution.weight, convolution.bias = nn.Parameter(weight), nn.Parameter(bias)
        # timm's BatchNorms contain their activation.
        rest = [m for m in batchnorm.children() if not isinstance(m, nn.Identity)]
        replacement = rest[0] if len(rest) == 1 else nn.Sequential(*rest)
        for name in names[batchnorm]:
            model.set_submodule(name, replacement)
    # Compare norms, not maxima: in a network that unpools, rounding moves single values to a
    # neighbouring position.
    difference = (model(example_input) - expected).norm() / expected.norm().clamp_min(1e-6)
    if not difference <= LARGEST_CHANGE:
        raise RuntimeError(
            f"folding changed the network's output by a relative error of {difference.item():.2g}"
        )
    return len(pairs)


def _find_pairs(model: nn.Module, example_input: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Pair convolutions and BatchNorms that are called once each, one right after the other."""
    outputs: dict[int, tuple[nn.Conv2d, Tensor]] = {}
    pairs: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []
    calls: dict[nn.Module, int] = {}

    def note_convolution(layer: nn.Module, _: object, output: Tensor) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        if isinstance(layer, nn.Conv2d):
            outputs[id(output)] = (layer, output)  # the reference keeps the id from being reused

    def note_batchnorm(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        calls[layer] = calls.get(layer, 0) + 1
        if isinstance(layer, nn.BatchNorm2d) and id(inputs[0]) in outputs:
            pairs.append((outputs[id(inputs[0])][0], layer))

    hooks = []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(note_convolution))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(note_batchnorm))
    model(example_input)
    for hook in hooks:
        hook.remove()
    return [pair for pair in pairs if calls[pair[0]] == calls[pair[1]] == 1]
