"""Simulated rounding to 8 bits in a float network, for training and for sensitivity."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils.hooks import RemovableHandle

WEIGHT_LIMIT = 127
ACTIVATION_LIMIT = 255
MOMENTUM = 0.1
SMALLEST_SCALE = 1e-8


class LayerRounding(nn.Module):
    """Rounds the weights of a convolution to int8 per channel, and its input to uint8.

    Gradients pass through the rounding unchanged (straight-through), and are zero where values are
    clipped.

    Source: Jacob et al., "Quantization and training of neural networks for efficient
        integer-arithmetic-only inference", https://arxiv.org/abs/1712.05877, section 3.

    Args:
        channel_axis: Dimension of the weights that holds the output channels.

    Attributes:
        is_on: Whether it rounds.
        observes: Whether the input's range is still being updated.
    """

    low: Tensor
    high: Tensor

    def __init__(self, channel_axis: int) -> None:
        super().__init__()
        self.channel_axis = channel_axis
        self.is_on = True
        self.observes = True
        self.register_buffer("low", torch.zeros(()))
        self.register_buffer("high", torch.zeros(()))

    def forward(self, weight: Tensor) -> Tensor:
        """Round the weights; called by `parametrize`."""
        if not self.is_on:
            return weight
        axes = [axis for axis in range(weight.ndim) if axis != self.channel_axis]
        scale = (weight.detach().abs().amax(dim=axes) / WEIGHT_LIMIT).clamp_min(SMALLEST_SCALE)
        zero_point = torch.zeros_like(scale, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(
            weight, scale, zero_point, self.channel_axis, -WEIGHT_LIMIT, WEIGHT_LIMIT
        )

    def round_input(
        self, layer: nn.Module, inputs: tuple[Tensor, ...]
    ) -> tuple[Tensor, ...] | None:
        """Round the input of the layer, as a forward pre-hook."""
        features, *others = inputs  # a transposed convolution may also get its output's size
        if self.observes:
            self._observe(features.detach().float())
        if not self.is_on:
            return None
        scale = ((self.high - self.low) / ACTIVATION_LIMIT).clamp_min(SMALLEST_SCALE)
        zero_point = (-self.low / scale).round().clamp(0, ACTIVATION_LIMIT).to(torch.int32)
        rounded = torch.fake_quantize_per_tensor_affine(
            features.float(), scale, zero_point, 0, ACTIVATION_LIMIT
        )
        return (rounded.to(features.dtype), *others)

    def _observe(self, features: Tensor) -> None:
        low, high = features.min().clamp(max=0), features.max().clamp(min=0)
        if self.high == self.low:
            self.low.copy_(low)
            self.high.copy_(high)
        else:
            self.low.lerp_(low, MOMENTUM)
            self.high.lerp_(high, MOMENTUM)


class FakeQuantization:
    """Fake quantisation of all convolutions of a network.

    Args:
        model: Network with BatchNorms folded, as in the file; changed in place until `remove`.

    Attributes:
        layers: Roundings by layer name.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.layers: dict[str, LayerRounding] = {}
        self._hooks: list[RemovableHandle] = []
        found = find_convolutions(model)
        for name, layer in found.items():
            rounding = LayerRounding(1 if isinstance(layer, nn.ConvTranspose2d) else 0)
            rounding.to(layer.weight.device)
            parametrize.register_parametrization(layer, "weight", rounding)
            self._hooks.append(layer.register_forward_pre_hook(rounding.round_input))
            self.layers[name] = rounding

    def remove(self) -> None:
        """Remove the rounding; the network keeps its current weights, unrounded."""
        for hook in self._hooks:
            hook.remove()
        for name in self.layers:
            layer: Any = self.model.get_submodule(name)
            if len(layer.parametrizations.weight) > 1:  # the network has its own, such as a norm
                del layer.parametrizations.weight[-1]
            else:
                parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)

    @contextmanager
    def only(self, names: set[str]) -> Iterator[None]:
        """Round only in the layers with these names."""
        before = {name: rounding.is_on for name, rounding in self.layers.items()}
        for name, rounding in self.layers.items():
            rounding.is_on = name in names
        try:
            yield
        finally:
            for name, rounding in self.layers.items():
                rounding.is_on = before[name]


def find_convolutions(model: nn.Module) -> dict[str, Any]:
    """Return the convolutions of a network by name."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d)
    return {name: layer for name, layer in model.named_modules() if isinstance(layer, kinds)}
