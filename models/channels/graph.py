"""torch-pruning's graph of channels, taught to follow the layers that know theirs by number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch_pruning as tp
from torch import Tensor, nn
from torch.autograd import Function
from torch_pruning._helpers import GroupItem, _HybridIndex
from torch_pruning.dependency.index_mapping import update_index_mapping

from models.channels.layers import ChannelHalf, ChannelLayer
from models.network import SegmentationNetwork

_Handler = Callable[..., Any]
_Mapping = Callable[[Sequence[_HybridIndex]], list[_HybridIndex]]


class ImageChannels(ChannelLayer):
    """Stands for the image in a trace: whatever is tied to its channels cannot be pruned."""

    def __init__(self) -> None:
        super().__init__(3, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return the image, as a tensor of its own."""
        return images.clone()

    def get_sources(self) -> list[int]:
        """See `ChannelLayer.get_sources`."""
        return [0, 1, 2]

    def keep(self, inputs: Sequence[int]) -> None:
        """Refuse: an image has three channels."""
        raise ValueError(f"an image has the channels 0, 1, 2; got {inputs!r}")


class ChannelGraph(tp.DependencyGraph):  # type: ignore[misc]
    """The channels of a network, and which of them must go together.

    Source: Fang et al., "DepGraph", https://arxiv.org/abs/2301.12900, through torch-pruning.
    Differs: a `ChannelLayer` is one node, whose outputs are tied to their sources; a channel of a
        grouped convolution is tied to its like in the other groups, whatever layers these come
        from; a group is found by following each channel of each layer once (torch-pruning follows
        each set of channels, and there are exponentially many where a residual is split again and
        again).

    Args:
        model: On the CPU; the graph refers to its layers.
        images: (1, 3, H, W) float.
    """

    def __init__(self, model: SegmentationNetwork, images: Tensor) -> None:
        super().__init__()
        traced = _Traced(model)
        layers = [layer for layer in traced.modules() if isinstance(layer, ChannelLayer)]
        pruner = _ChannelLayerPruner()
        for layer in layers:
            layer.forward = _as_one_operation(layer.forward)
        try:
            self.build_dependency(
                traced,
                images.requires_grad_(),
                customized_pruners={type(layer): pruner for layer in layers},
            )
        finally:
            for layer in layers:
                del layer.forward
        for layer in layers:
            if layer in self.module2node and layer.get_sources():
                self._tie_to_sources(layer, pruner)
        for module in traced.modules():
            if (
                isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
                and module.groups not in (1, module.out_channels)
                and module in self.module2node
            ):
                self._tie_across_groups(module)

    def get_pruning_group(
        self, module: nn.Module, pruning_fn: Callable[..., Any], idxs: Sequence[int]
    ) -> Any:
        """Find everything that must go with some channels of a layer.

        Args:
            module: The layer.
            pruning_fn: torch-pruning's function for its outputs, or for its inputs.
            idxs: The channels.

        Returns:
            torch-pruning's group of (dependency, channels), the layer first; and as `ties` the
            pairs of the layer's channels that have a channel in common somewhere.
        """
        if isinstance(module, nn.Conv2d) and module.groups == module.out_channels > 1:
            pruning_fn = tp.prune_depthwise_conv_out_channels
        update_index_mapping(self)
        root = self.module2node[module]
        first = tp.dependency.Dependency(pruning_fn, pruning_fn, source=root, target=root)
        reached: dict[tuple[Any, Any], tuple[Any, dict[int, int]]] = {}
        pending: list[tuple[Any, list[_HybridIndex]]] = []
        ties: set[tuple[int, int]] = set()

        def reach(dependency: Any, channels: Sequence[_HybridIndex]) -> None:
            key = dependency.target, dependency.handler
            roots = reached.setdefault(key, (dependency, {}))[1] if channels else {}
            ties.update((roots.get(c.idx, c.root_idx), c.root_idx) for c in channels)
            new = [c for c in channels if c.idx not in roots]
            roots.update((c.idx, c.root_idx) for c in new)
            if new:
                pending.append((dependency, new))

        reach(first, [_HybridIndex(idx=i, root_idx=i) for i in idxs])
        while pending:
            dependency, channels = pending.pop()
            for following in dependency.target.dependencies:
                if following.is_triggered_by(dependency.handler):
                    mapped = channels
                    for mapping in following.index_mapping:
                        mapped = mapped if mapping is None else mapping(mapped)
                    reach(following, mapped)

        group = tp.dependency.Group()
        for dependency, roots in reached.values():
            item = GroupItem(dependency, list(roots))
            item.root_idxs = list(roots.values())
            group.items.append(item)
        group._DG = self
        group.ties = [(first, second) for first, second in ties if first != second]
        return group

    def _tie_to_sources(self, layer: ChannelLayer, pruner: _ChannelLayerPruner) -> None:
        """Let the outputs of a layer go with their inputs, and the other way round."""

        def to_outputs(channels: Sequence[_HybridIndex]) -> list[_HybridIndex]:
            outputs = {source: output for output, source in enumerate(layer.get_sources())}
            return [_HybridIndex(outputs[c.idx], c.root_idx) for c in channels if c.idx in outputs]

        def to_inputs(channels: Sequence[_HybridIndex]) -> list[_HybridIndex]:
            sources = layer.get_sources()
            return [_HybridIndex(sources[c.idx], c.root_idx) for c in channels]

        def to_mirror(channels: Sequence[_HybridIndex]) -> list[_HybridIndex]:
            return [_HybridIndex(layer.in_channels - 1 - c.idx, c.root_idx) for c in channels]

        inputs, outputs = pruner.prune_in_channels, pruner.prune_out_channels
        self._tie(layer, inputs, outputs, to_outputs)
        self._tie(layer, outputs, inputs, to_inputs)
        if isinstance(layer, ChannelHalf):
            # A channel's mirror image is in the other half, and so it is after any shuffle of two
            # groups: however often they are split, all halves stay equal.
            self._tie(layer, inputs, inputs, to_mirror)

    def _tie_across_groups(self, layer: nn.Conv2d | nn.ConvTranspose2d) -> None:
        """Let the channels of a grouped convolution go with their like in its other groups."""
        pruner = self.get_pruner_of_module(layer)
        for handler, width in (
            (pruner.prune_in_channels, "in_channels"),
            (pruner.prune_out_channels, "out_channels"),
        ):
            self._tie(layer, handler, handler, partial(_find_like, layer, width))

    def _tie(
        self, layer: nn.Module, trigger: _Handler, handler: _Handler, mapping: _Mapping
    ) -> None:
        """Let some channels of a layer go with others of the same layer."""
        node = self.module2node[layer]
        tie = tp.dependency.Dependency(trigger, handler, source=node, target=node)
        tie.index_mapping[0] = mapping
        node.dependencies.append(tie)


def _find_like(
    layer: nn.Conv2d | nn.ConvTranspose2d, width: str, channels: Sequence[_HybridIndex]
) -> list[_HybridIndex]:
    """Find what stands in the next group of a convolution where a channel stands in its own.

    From group to group this comes round to all of them.
    """
    size = getattr(layer, width)
    step = size // layer.groups
    return [_HybridIndex((c.idx + step) % size, c.root_idx) for c in channels]


class _Traced(nn.Module):
    """A network whose image is a node of the graph like any layer."""

    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.images = ImageChannels()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.network.compute_outputs(self.images(images), with_auxiliary=True)


class _ChannelLayerPruner(tp.BasePruningFunc):  # type: ignore[misc]
    """Tells torch-pruning the widths of a `ChannelLayer`, and that layer what goes."""

    def prune_in_channels(self, layer: ChannelLayer, idxs: Sequence[int]) -> ChannelLayer:
        layer.keep(sorted(set(range(layer.in_channels)) - set(idxs)))
        return layer

    def prune_out_channels(self, layer: ChannelLayer, idxs: Sequence[int]) -> ChannelLayer:
        # Where outputs have sources, the same group holds these, and they take them along.
        layer.keep_outputs(sorted(set(range(layer.out_channels)) - set(idxs)))
        return layer

    def get_in_channels(self, layer: ChannelLayer) -> int:
        return layer.in_channels

    def get_out_channels(self, layer: ChannelLayer) -> int:
        return layer.out_channels


class _OneOperation(Function):
    """Whatever a layer computes, as one node between its input and its output."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
        return compute(features)


def _as_one_operation(compute: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    return lambda features: _OneOperation.apply(features, compute)
