"""A moving average of a network's weights, often better than the last weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of all floating-point tensors, BatchNorm statistics included.

    Source: Polyak and Juditsky, 1992; the warm-up of the decay as in TensorFlow's
        ExponentialMovingAverage (`num_updates`), so that the initial weights are soon forgotten.

    Args:
        model: Network; the average starts at its weights.
        horizon: Number of updates that the average spans, at least 1; the decay is 1 - 1 / horizon.
    """

    def __init__(self, model: nn.Module, horizon: float) -> None:
        if horizon < 1:
            raise ValueError(f"horizon must be at least 1 update, got {horizon}")
        self._decay = 1 - 1 / horizon
        self._model = model
        self.tensors = {name: tensor.clone() for name, tensor in _get_floats(model).items()}

    @torch.no_grad()
    def update(self, num_updates: int) -> None:
        """Add the network's current weights to the average.

        Args:
            num_updates: Number of updates of the network so far, at least 1.
        """
        decay = min(self._decay, num_updates / (num_updates + 9))
        latest = _get_floats(self._model)
        for name, average in self.tensors.items():
            average.lerp_(latest[name], 1 - decay)

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from the `tensors` of an earlier average.

        Raises:
            ValueError: The tensors belong to another network.
        """
        if tensors.keys() != self.tensors.keys():
            odd = sorted(tensors.keys() ^ self.tensors.keys())
            raise ValueError(
                f"the averaged weights belong to another network; they differ in {odd[:5]}"
            )
        for name, average in self.tensors.items():
            average.copy_(tensors[name])

    @torch.no_grad()
    def write_into_model(self) -> None:
        """Replace the network's weights by the average."""
        for name, tensor in _get_floats(self._model).items():
            tensor.copy_(self.tensors[name])


def _get_floats(model: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point parameters and buffers, which are the ones to average."""
    state = model.state_dict()
    return {name: tensor for name, tensor in state.items() if tensor.is_floating_point()}
