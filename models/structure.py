"""The description of a network: how it was made, and how wide each of its layers is now."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from models import check_name, create_model
from models.channels.widths import get_resizable_layers, get_width, set_width
from models.network import SegmentationNetwork
from models.resolving import find_allowed, is_foreign


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """Everything that is needed to build a network, pruned or not, except its tensors.

    Attributes:
        name: Network name, as for `models.create_model`.
        kwargs: Keywords of `models.create_model`, JSON-serialisable, including `num_classes`.
        widths: Values of the `WIDTH_ATTRIBUTES` of each layer, by layer name.
    """

    name: str
    kwargs: Mapping[str, Any]
    widths: Mapping[str, tuple[int, ...]]

    def __post_init__(self) -> None:
        check_name(self.name)

    @property
    def key(self) -> str:
        """16 hexadecimal digits; equal for networks with equal layers, whatever their weights."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:16]

    def to_json(self) -> str:
        """Write as JSON, the same text for the same structure."""
        content = {"name": self.name, "kwargs": dict(self.kwargs), "widths": dict(self.widths)}
        return json.dumps(content, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Structure:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is not the structure of a network.
        """
        try:
            content = json.loads(text)
            widths = {str(k): tuple(map(int, v)) for k, v in content["widths"].items()}
            return cls(name=content["name"], kwargs=dict(content["kwargs"]), widths=widths)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the structure of a network: {error!r}") from error


def describe_structure(model: nn.Module) -> Structure:
    """Describe a network that `models.create_model` made, with its current widths.

    Raises:
        ValueError: The network was not made by `models.create_model`.
    """
    if not isinstance(model, SegmentationNetwork) or not model.name:
        raise ValueError(
            f"the network must come from models.create_model, got a {type(model).__name__}"
        )
    widths = {name: get_width(layer) for name, layer in get_resizable_layers(model).items()}
    return Structure(name=model.name, kwargs=model.kwargs, widths=widths)


def build_empty(structure: Structure, *, given: Iterable[str] = ()) -> SegmentationNetwork:
    """Build the network with every layer at its width and with undefined weights.

    Networks of `MODELS` are built on the meta device, without memory. Foreign networks may compute
    with their weights while they are built, so they get real ones.

    Args:
        structure: Structure, possibly from an untrusted file.
        given: Names of foreign networks whose code the caller trusts.

    Raises:
        UntrustedNetworkError: The structure names code that was not trusted.
        ValueError: The layers of the structure differ from those of the network.
    """
    name = find_allowed(structure.name, given)
    if is_foreign(name):
        with torch.random.fork_rng(devices=[]):
            model = create_model(name, **structure.kwargs)
    else:
        with torch.device("meta"):
            model = create_model(name, **structure.kwargs)
    shared = get_shared_parameters(model)
    layers = get_resizable_layers(model)
    # Older files do not list every norm; those that they do not list were not pruned either.
    norms = {n for n, m in layers.items() if isinstance(m, nn.BatchNorm2d | nn.InstanceNorm2d)}
    odd = (layers.keys() ^ structure.widths.keys()) - (norms - structure.widths.keys())
    if odd:
        listed = sorted(odd)[:5]
        raise ValueError(f"{structure.name} and its structure differ in the layers {listed}")
    for name, width in structure.widths.items():
        _resize(layers[name], width)
    share_parameters(model, shared)
    return model


def get_shared_parameters(model: nn.Module) -> list[list[str]]:
    """Return the names of each parameter that is registered under several names."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [group for group in names.values() if len(group) > 1]


def share_parameters(model: nn.Module, groups: Iterable[Sequence[str]]) -> None:
    """Share one parameter, the first of each group, among all names of the group, in place."""
    for first, *others in groups:
        parameter = model.get_parameter(first)
        for name in others:
            owner, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(owner), attribute, parameter)


def _resize(layer: nn.Module, width: tuple[int, ...]) -> None:
    """Resize the attributes and tensors of a layer; the values of the tensors are undefined."""
    if width == get_width(layer):
        return
    set_width(layer, width)
    weight_shape: tuple[int, ...] = (width[0],)
    num_outputs = width[0]
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        inputs, num_outputs, groups = width
        first, second = (inputs, num_outputs) if layer.transposed else (num_outputs, inputs)
        weight_shape = (first, second // groups, *layer.kernel_size)
    elif isinstance(layer, nn.Linear):
        num_outputs = width[1]
        weight_shape = (num_outputs, width[0])
    for name, parameter in list(layer.named_parameters(recurse=False)):
        shape = weight_shape if name == "weight" else (num_outputs,)
        setattr(layer, name, nn.Parameter(parameter.new_empty(shape), parameter.requires_grad))
    for name, buffer in list(layer.named_buffers(recurse=False)):
        if buffer.ndim:
            setattr(layer, name, buffer.new_empty((num_outputs,)))
