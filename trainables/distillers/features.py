"""Taps: maps inside a network, kept from one forward pass to the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from trainables.distillers.layers import Layer


class FeatureTaps:
    """Keeps the maps of some layers of a network while it is open.

    The network's code, parameters and checkpoint stay as they are; of a layer that runs twice in a
    forward pass the last map counts.

    Args:
        network: Which runs; None where there are no layers.
        layers: Which maps to keep.
    """

    def __init__(self, network: nn.Module | None, layers: Iterable[Layer]) -> None:
        self.network = network
        self.layers = tuple(dict.fromkeys(layers))
        self._maps: dict[str, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> FeatureTaps:
        """Start to listen."""
        for layer in self.layers:
            assert self.network is not None  # noqa: S101 - layers are those of a network
            module = self.network.get_submodule(layer.name)
            self._handles.append(module.register_forward_hook(self._keep(layer)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop to listen and let go of what was kept."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._maps.clear()

    def take(self) -> dict[str, Tensor]:
        """Hand over the maps of the last forward pass, by `Layer.key`.

        Raises:
            ValueError: A layer has not run since the last call.
        """
        maps, self._maps = self._maps, {}
        missing = [layer.key for layer in self.layers if layer.key not in maps]
        if missing:
            raise ValueError(
                f"the layers {', '.join(missing)} of {type(self.network).__name__} did not run in "
                "this forward pass; name layers that run in training too"
            )
        return maps

    def _keep(self, layer: Layer) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            self._maps[layer.key] = inputs[0] if layer.of_input else output

        return hook
