"""The record of a pruning: the kept channels, as JSON, to replay on a network of equal layers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn

from models.blocks.channel_layers import ChannelLayer
from models.channels.widths import get_resizable_layers, get_width, set_width


@dataclass(frozen=True, kw_only=True, slots=True)
class KeptChannels:
    """The kept channels of one layer, by their number in the unpruned layer.

    Attributes:
        inputs: Kept input channels, ascending; equal to `outputs` for BatchNorm and depthwise
            convolutions.
        outputs: Kept output channels, ascending.
    """

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class PruningRecord:
    """The result of `models.pruning.prune`.

    Attributes:
        pruning_ratio: The requested fraction of channels to remove.
        scope: One of `models.pruning.SCOPES`.
        round_to: Widths are multiples of this number where a layer is wide enough.
        importance: Key of `IMPORTANCES` that ranked the channels.
        num_params_before: Number of parameters of the unpruned network.
        num_params_after: Number of parameters of the pruned network.
        layers: Kept channels by layer name; unchanged layers are not listed.
        unprunable: Reason by name for each layer with channels that had to stay. Channels of the
            image and of the classes are not listed.
    """

    pruning_ratio: float
    scope: str
    round_to: int | None
    importance: str
    num_params_before: int
    num_params_after: int
    layers: Mapping[str, KeptChannels]
    unprunable: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write as JSON, the same text for the same record."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> PruningRecord:
        """Read what `to_json` wrote.

        Raises:
            ValueError: The text is not a pruning record.
        """
        try:
            content = json.loads(text)
            layers = {
                name: KeptChannels(inputs=tuple(kept["inputs"]), outputs=tuple(kept["outputs"]))
                for name, kept in content.pop("layers").items()
            }
            return cls(**content, layers=layers)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not the record of a pruning: {error!r}") from error


@torch.no_grad()
def replay(model: nn.Module, layers: PruningRecord | Mapping[str, KeptChannels]) -> None:
    """Prune a network in place as a network of equal layers was pruned.

    Args:
        model: Unpruned network with the layers that the record was made for. Parameters are
            replaced, so an optimiser made earlier holds the old ones. The network is unchanged if
            an error is raised.
        layers: The record, or its `layers`.

    Raises:
        ValueError: The network lacks a layer of the record, or a layer is too narrow.
    """
    kept = layers.layers if isinstance(layers, PruningRecord) else layers
    found = get_resizable_layers(model)
    unknown = sorted(kept.keys() - found.keys())
    if unknown:
        raise ValueError(f"the network has no layers {unknown[:5]} that the record names")
    for name, channels in kept.items():
        _check(name, found[name], channels)
    replaced: dict[int, nn.Parameter] = {}
    for name, channels in kept.items():
        _select(found[name], channels, replaced)


def get_num_channels(layer: nn.Module) -> tuple[int, int]:
    """Return the numbers of input and output channels of a layer."""
    width = get_width(layer)
    return (width[0], width[0]) if len(width) == 1 else (width[0], width[1])


def count_groups(layer: nn.Conv2d | nn.ConvTranspose2d, kept: KeptChannels) -> int:
    """Count the groups of a convolution once it keeps only some channels."""
    return len(kept.inputs) if _is_depthwise(layer) else layer.groups


def _is_depthwise(layer: nn.Conv2d | nn.ConvTranspose2d) -> bool:
    return layer.groups > 1 and layer.groups == layer.in_channels


def _check(name: str, layer: nn.Module, channels: KeptChannels) -> None:
    for kept, size in zip(
        (channels.inputs, channels.outputs), get_num_channels(layer), strict=True
    ):
        if not kept or min(kept) < 0 or max(kept) >= size:
            raise ValueError(f"{name} has the channels 0 to {size - 1}, the record keeps {kept}")


def _select(layer: nn.Module, channels: KeptChannels, replaced: dict[int, nn.Parameter]) -> None:
    """Keep the given channels of one layer: its attributes, parameters and buffers."""
    if isinstance(layer, ChannelLayer):
        layer.keep(channels.inputs)
        layer.keep_outputs(channels.outputs)
        return
    inputs, outputs = channels.inputs, channels.outputs
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        is_depthwise = _is_depthwise(layer)
        groups = count_groups(layer, channels)
        set_width(layer, (len(inputs), len(outputs), groups))
        # One dimension of a weight covers the channels of one group; all groups keep the same.
        if layer.transposed:
            width = len(outputs) // groups
            rows, columns = inputs, tuple(range(width)) if is_depthwise else outputs[:width]
        else:
            rows = outputs
            columns = (0,) if is_depthwise else inputs[: len(inputs) // groups]
        weight = _take(_take(layer.weight, 0, rows), 1, columns)
        _replace(layer, "weight", weight, replaced)
    elif isinstance(layer, nn.Linear):
        set_width(layer, (len(inputs), len(outputs)))
        weight = _take(_take(layer.weight, 0, outputs), 1, inputs)
        _replace(layer, "weight", weight, replaced)
    else:
        set_width(layer, (len(outputs),))
        for name in ("weight", "running_mean", "running_var"):
            _replace(layer, name, _take(getattr(layer, name, None), 0, outputs), replaced)
    _replace(layer, "bias", _take(getattr(layer, "bias", None), 0, outputs), replaced)


def _take(tensor: Tensor | None, dim: int, indices: Sequence[int]) -> Tensor | None:
    if tensor is None:
        return None
    return tensor.index_select(dim, torch.tensor(indices, device=tensor.device))


def _replace(
    layer: nn.Module, name: str, tensor: Tensor | None, replaced: dict[int, nn.Parameter]
) -> None:
    """Put a new tensor where the layer has a parameter or a buffer of this name.

    A parameter that several layers share stays shared.
    """
    old = getattr(layer, name, None)
    if old is None or tensor is None:
        return
    if isinstance(old, nn.Parameter):
        new = nn.Parameter(tensor, requires_grad=old.requires_grad)
        tensor = replaced.setdefault(id(old), new)
    setattr(layer, name, tensor)
