"""Taps on a network: they keep maps of a forward pass for the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from trainables.distillers.layers import Layer


class FeatureTaps:
    """Records the maps of some layers of a network while it is entered.

    The network's code, parameters and checkpoint are not changed. If a layer runs twice in a
    forward pass, the last map is kept.

    Args:
        network: Network that runs; None if there are no layers.
        layers: Layers whose maps are kept.
    """

    def __init__(self, network: nn.Module | None, layers: Iterable[Layer]) -> None:
        self.network = network
        self.layers = tuple(dict.fromkeys(layers))
        self._maps: dict[str, Tensor] = {}
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def __enter__(self) -> FeatureTaps:
        """Register the hooks."""
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
        """Remove the hooks and release the maps."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._maps.clear()

    def take(self) -> dict[str, Tensor]:
        """Return and release the maps of the last forward pass, by `Layer.key`.

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
