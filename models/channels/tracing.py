"""Follows every channel of a network through one forward pass, operation by operation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.blocks.channel_layers import ChannelHalf, ChannelLayer
from models.channels.equivalence import ChannelPartition, Labels
from models.channels.operations import follow
from models.channels.record import get_num_channels
from models.channels.widths import get_resizable_layers
from models.torch_internals import TorchDispatchMode, tree_leaves

IMAGE = "it is tied to the channels of the image"
CLASSES = "its channels are the classes"


class ChannelTrace(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Labels every tensor of a forward pass with the channels that its elements belong to.

    A layer of `models.channels.widths.WIDTH_ATTRIBUTES` is one step: its outputs are new channels,
    and its inputs are joined with the channels that it reads. Between layers, each operation of
    PyTorch moves or joins labels (`models.channels.operations`). Channels that an unknown operation
    reads must stay.

    Args:
        model: Network on the CPU. While the trace is entered, every forward pass of it is followed.

    Attributes:
        partition: Partition of all channels seen so far.
        inputs: Labels of the input channels of each layer that was called, by layer name.
        outputs: Labels of the output channels likewise.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.partition = ChannelPartition()
        self.inputs: dict[str, Labels] = {}
        self.outputs: dict[str, Labels] = {}
        self._layers = get_resizable_layers(model)
        self._names = {module: name for name, module in model.named_modules()}
        self._owners = {
            id(parameter): name
            for name, layer in self._layers.items()
            for parameter in layer.parameters(recurse=False)
        }
        self._classes: set[int] = set()
        self._labels: dict[int, tuple[Tensor, Labels]] = {}
        self._nonnegative: dict[int, bool] = {}
        self._inside: list[nn.Module] = []
        self._calls: list[str] = []
        self._handles: list[Any] = []

    def __enter__(self) -> ChannelTrace:
        for module in self._names:
            if isinstance(module, torch.jit.ScriptModule):
                continue  # accepts no hooks, but its operations are dispatched here too
            self._handles += [
                module.register_forward_pre_hook(self._begin),
                module.register_forward_hook(self._end),
            ]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._labels.clear()
        self._nonnegative.clear()
        self._inside.clear()
        self._calls.clear()

    @property
    def place(self) -> str:
        """Name of the running module, for messages."""
        return next((name for name in reversed(self._calls) if name), "the network")

    def get_labels(self, tensor: Tensor) -> Labels:
        """Return a tensor's labels, with as many dimensions as the tensor."""
        found = self._labels.get(id(tensor))
        return torch.zeros((1,) * tensor.ndim, dtype=torch.float64) if found is None else found[1]

    def set_labels(self, tensor: Tensor, labels: Labels, *, nonnegative: bool = False) -> None:
        """Set a tensor's labels; the tensor is kept alive so that its id is not reused."""
        self._labels[id(tensor)] = (tensor, shrink(labels))
        self._nonnegative[id(tensor)] = nonnegative

    def is_nonnegative(self, tensor: Tensor) -> bool:
        """Whether no element can be below zero."""
        return self._nonnegative.get(id(tensor), False)

    def mark(self, images: Tensor) -> None:
        """Label the image; its channels must stay."""
        labels = self.partition.add(images.shape[1])
        self.partition.fix(labels, IMAGE)
        self.set_labels(images, labels.view(1, -1, 1, 1))

    def fix_classes(self, logits: Tensor) -> None:
        """Mark the channels of an output as classes, which must stay."""
        labels = self.get_labels(logits)
        self.partition.fix(labels, CLASSES)
        self._classes |= {int(channel) for channel in labels.flatten().tolist() if channel}

    def find_classes(self) -> set[int]:
        """Return the representatives of the channels that are classes, whatever else fixes them."""
        return {self.partition.find(channel) for channel in self._classes}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run an operation and, outside resizable layers, follow it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not self._inside:
            for leaf in tree_leaves((args, kwargs)):
                if isinstance(leaf, nn.Parameter) and id(leaf) in self._owners:
                    name = self._owners[id(leaf)]
                    self._fix_layer(name, f"its weights are read outside of it, in {self.place}")
            follow(self, func, args, kwargs, result)
        return result

    def _begin(self, module: nn.Module, _: Any) -> None:
        self._calls.append(self._names[module])
        if self._inside or self._names[module] in self._layers:
            self._inside.append(module)

    def _end(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        self._calls.pop()
        if len(self._inside) == 1:  # popped below, so that labelling is not followed
            self._label_layer(self._names[module], module, inputs, output)
        if self._inside:
            self._inside.pop()

    def _label_layer(
        self, name: str, layer: nn.Module, inputs: tuple[Any, ...], output: Any
    ) -> None:
        """Join the channels that a layer reads with its inputs, and label its output."""
        if not (inputs and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)):
            self._fix_layer(name, "it does not map one tensor to one tensor")
            return
        features = inputs[0]
        if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
            self.set_labels(output, self.get_labels(features))
            return
        computes = isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear)
        if computes and "weight" not in dict(layer.named_parameters(recurse=False)):
            self._fix_layer(name, "its weights are computed from others, as by a weight norm")
        dim = _find_channel_dim(layer, features)
        if len(inputs) > 1 and any(isinstance(other, Tensor) for other in inputs[1:]):
            self._fix_layer(name, "it reads several tensors")
        self._open(name, layer)
        read = self.get_labels(features)
        num_inputs, num_outputs = get_num_channels(layer)
        own = self.inputs[name]
        spread = [size for d, size in enumerate(read.shape) if d != dim and size > 1]
        if spread or read.shape[dim] != num_inputs:
            reason = f"{name} reads channels that the trace cannot tell apart"
            self.partition.fix(read, reason)
            self.partition.fix(own, reason)
        else:
            read = read.reshape(-1)
            self.partition.join(read, own)
            if bool((read == 0).any()):
                self.partition.fix(own[read == 0], f"{name} reads channels that cannot be followed")
        shape = [1] * output.ndim
        if output.ndim <= dim or output.shape[dim] != num_outputs:
            self._fix_layer(name, "its output does not have its channels")
            return
        shape[dim] = num_outputs
        self.set_labels(output, self.outputs[name].view(shape))

    def _open(self, name: str, layer: nn.Module) -> None:
        """Make the channels of a layer at its first call, joined as the layer requires."""
        if name in self.inputs:
            return
        num_inputs, num_outputs = get_num_channels(layer)
        join = self.partition.join
        inputs = outputs = self.partition.add(num_inputs)
        if isinstance(layer, ChannelLayer):
            outputs = self.partition.add(num_outputs)
            if sources := layer.get_sources():
                join(outputs, inputs[sources])
            if isinstance(layer, ChannelHalf):
                # Join each channel with its mirror image, which is in the other half and stays
                # there after any shuffle of two groups. All halves therefore stay equally wide,
                # however often the map is split.
                join(inputs, inputs.flip(0))
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            outputs = self.partition.add(num_outputs)
            groups = layer.groups
            if groups > 1 and groups == num_inputs:  # depthwise: an input and all its outputs
                join(outputs.view(groups, -1), inputs.view(groups, 1))
            elif groups > 1:  # the groups stay equally wide
                self.partition.join_across(inputs.view(groups, -1), 0)
                self.partition.join_across(outputs.view(groups, -1), 0)
        elif isinstance(layer, nn.Linear):
            outputs = self.partition.add(num_outputs)
        self.inputs[name], self.outputs[name] = inputs, outputs
        for other, twin in self._layers.items():  # layers that share one weight
            weight = getattr(twin, "weight", None)
            is_same = weight is not None and weight is getattr(layer, "weight", None)
            if is_same and other != name and other in self.inputs:
                join(self.inputs[other], inputs)
                join(self.outputs[other], outputs)

    def _fix_layer(self, name: str, reason: str) -> None:
        self._open(name, self._layers[name])
        self.partition.fix(self.inputs[name], reason)
        self.partition.fix(self.outputs[name], reason)


def shrink(labels: Labels) -> Labels:
    """Reduce the dimensions along which labels are constant to size 1."""
    for dim, size in enumerate(labels.shape):
        if size > 1 and bool((labels == labels.narrow(dim, 0, 1)).all()):
            labels = labels.narrow(dim, 0, 1)
    return labels


def _find_channel_dim(layer: nn.Module, features: Tensor) -> int:
    if isinstance(layer, nn.Linear):
        return features.ndim - 1
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.InstanceNorm2d):
        return features.ndim - 3
    return min(1, features.ndim - 1)


def describe_fixed(trace: ChannelTrace) -> Mapping[str, str]:
    """Return why layers must keep output channels, except those of the image and the classes.

    A layer with a single output channel is not listed, because it always keeps one.
    """
    reasons = {}
    partition, classes = trace.partition, trace.find_classes()
    for name, outputs in trace.outputs.items():
        roots = [partition.find(int(channel)) for channel in outputs.tolist()]
        found = [partition.get_reason(root) for root in roots if root not in classes]
        odd = [reason for reason in found if reason not in (None, IMAGE)]
        if odd and len(outputs) > 1:
            reasons[name] = str(odd[0])
    return reasons
