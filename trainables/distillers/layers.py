"""Finds the layers of a network that a distiller reads, by running it or by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models import SegmentationNetwork

COARSEST_STRIDE = 32


class Layer(NamedTuple):
    """A map inside a network.

    Attributes:
        name: Dotted name of the module in the network.
        of_input: Whether it is the module's input instead of its output.
        channels: Channels of the map.
        stride: Pixels of the image per cell of the map, a power of two.
    """

    name: str
    of_input: bool
    channels: int
    stride: int

    @property
    def key(self) -> str:
        """Key of the map among the features."""
        return f"{self.name}:input" if self.of_input else self.name


class NetworkLayers(NamedTuple):
    """The layers that are read if none are named.

    Attributes:
        stages: The backbone's last map of each resolution, fine to coarse. At the coarsest
            resolution, where dilation may replace strides, also the last map of each width. The
            backbone ends before a map with less than an eighth of the previous map's width.
        fusion: The map that the classes are computed from.
    """

    stages: tuple[Layer, ...]
    fusion: Layer


def find_layers(network: nn.Module, image_size: tuple[int, int]) -> NetworkLayers:
    """Find the stages of the backbone and the fusion layer, by changes of resolution and width.

    The network runs once, in eval mode, on an image of zeros. Its backbone is what `get_backbone`
    returns, or everything that runs up to the coarsest map. The layer that computes the classes is
    that of `get_output_layers`, or the last layer with parameters that runs.

    Args:
        network: Any network that takes images (1, 3, H, W); not changed.
        image_size: Height and width of the image.

    Raises:
        ValueError: No map is coarser than the image.
    """
    calls = _run(network, image_size)
    classifier = _find_classifier(network, calls)
    return NetworkLayers(_find_stages(network, calls, classifier), classifier)


def find_named(
    network: nn.Module, names: Sequence[str], image_size: tuple[int, int]
) -> tuple[Layer, ...]:
    """Look up layers that a user names; "NAME:input" means the input of the module NAME.

    Raises:
        ValueError: The module does not exist or outputs no map.
    """
    by_key = {call.layer.key: call.layer for call in _run(network, image_size)}
    modules = {name for name, _ in network.named_modules() if name}
    for name in names:
        if name.removesuffix(":input") not in modules:
            near = ", ".join(sorted(modules)[:8])
            raise ValueError(f"no layer {name!r} in {type(network).__name__}; it has {near}, ...")
        if name not in by_key:
            raise ValueError(
                f"layer {name!r} of {type(network).__name__} outputs no map (N, C, H, W)"
            )
    return tuple(by_key[name] for name in names)


def match_stages(
    student: Sequence[Layer], teacher: Sequence[Layer]
) -> tuple[tuple[Layer, Layer], ...]:
    """Pair the stages of two networks, from the coarsest to the finest, each used once.

    A stage of the student gets the remaining stage of the nearest stride, the deepest of equal
    ones.
    """
    pairs: list[tuple[Layer, Layer]] = []
    left = len(teacher)
    for own in reversed(student):
        if left == 0:
            break
        distances = [abs(math.log2(other.stride / own.stride)) for other in teacher[:left]]
        left = max(i for i, distance in enumerate(distances) if distance == min(distances))
        pairs.insert(0, (own, teacher[left]))
    return tuple(pairs)


class _Call(NamedTuple):
    """One map that was observed, and its module."""

    layer: Layer
    module: nn.Module


def _run(network: nn.Module, image_size: Sequence[int]) -> list[_Call]:
    """Return the maps in the order of computation; for a module that runs twice, the last one."""
    found: dict[str, _Call] = {}

    def note(name: str, module: nn.Module, value: Any, *, of_input: bool) -> None:
        stride = _stride_of(value, image_size)
        if stride is not None:
            layer = Layer(name, of_input, value.shape[1], stride)
            found.pop(layer.key, None)
            found[layer.key] = _Call(layer, module)

    def watch(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            note(name, module, inputs[0] if inputs else None, of_input=True)
            note(name, module, output, of_input=False)

        return hook

    # A size that every stride divides, so that networks do not pad their images.
    image_size = tuple(-(-side // COARSEST_STRIDE) * COARSEST_STRIDE for side in image_size)
    modes = {module: module.training for module in network.modules()}
    parameter = next(network.parameters(), torch.zeros(()))
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if name:
                stack.callback(module.register_forward_hook(watch(name)).remove)
        stack.callback(_set_modes, modes)
        network.eval()
        with torch.no_grad():
            image = torch.zeros(1, 3, *image_size, device=parameter.device, dtype=parameter.dtype)
            network(image)
    return list(found.values())


def _set_modes(modes: Mapping[nn.Module, bool]) -> None:
    for module, mode in modes.items():
        module.training = mode


def _stride_of(value: Any, image_size: Sequence[int]) -> int | None:
    """Return the stride of a map; None for other values (pooled, flattened, no tensor)."""
    if not isinstance(value, Tensor) or value.ndim != 4 or not value.is_floating_point():
        return None
    for exponent in range(COARSEST_STRIDE.bit_length()):
        stride = 2**exponent
        sides = zip(value.shape[-2:], image_size, strict=True)
        if all(abs(have - full / stride) < 1 for have, full in sides):
            return stride if min(value.shape[-2:]) > 1 else None
    return None


def _find_classifier(network: nn.Module, calls: Sequence[_Call]) -> Layer:
    chosen = network.get_output_layers() if isinstance(network, SegmentationNetwork) else ()
    inputs = [call for call in calls if call.layer.of_input]
    named = [call for call in inputs if call.module in chosen]
    weighty = [c for c in inputs if any(True for _ in c.module.parameters(recurse=False))]
    for candidates in (named, weighty):
        if candidates:
            return candidates[-1].layer
    raise ValueError(f"{type(network).__name__} has no layer with parameters that reads a map")


def _find_stages(
    network: nn.Module, calls: Sequence[_Call], classifier: Layer
) -> tuple[Layer, ...]:
    backbone = network.get_backbone() if isinstance(network, SegmentationNetwork) else None
    inside = set(backbone.modules()) if backbone is not None else set(network.modules())
    layers = [call.layer for call in calls if call.module in inside and not call.layer.of_input]
    head = next((i for i, layer in enumerate(layers) if layer.name == classifier.name), None)
    layers = [layer for layer in layers[:head] if layer.stride > 1]
    if not layers:
        raise ValueError(f"{type(network).__name__} has no map that is coarser than the image")
    coarsest = max(layer.stride for layer in layers)
    first = next(i for i, layer in enumerate(layers) if layer.stride == coarsest)
    end = next((i for i in range(first, len(layers)) if layers[i].stride < coarsest), len(layers))
    stages = [
        _outermost([layer for layer in layers[:first] if layer.stride == stride])[-1]
        for stride in sorted({layer.stride for layer in layers[:first]})
    ]
    stages += _last_of_each_width(_outermost(layers[first:end]))
    narrowing = (i for i in range(1, len(stages)) if _narrows(stages[i - 1], stages[i]))
    return tuple(stages[: next(narrowing, len(stages))])


def _narrows(before: Layer, after: Layer) -> bool:
    return after.channels < before.channels / 8


def _outermost(layers: Sequence[Layer]) -> list[Layer]:
    """Return the layers at the smallest depth of nesting."""
    depth = min(layer.name.count(".") for layer in layers)
    return [layer for layer in layers if layer.name.count(".") == depth]


def _last_of_each_width(layers: Sequence[Layer]) -> list[Layer]:
    following = [*layers[1:], None]
    return [
        layer
        for layer, after in zip(layers, following, strict=True)
        if after is None or after.channels != layer.channels
    ]
