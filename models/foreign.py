"""Foreign networks: any `nn.Module` as a `SegmentationNetwork`."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation import FCN, DeepLabV3

from models.blocks.layers import resize
from models.channels.groups import find_output_layers
from models.network import SegmentationNetwork
from models.resolving import Factory, canonical_name, find_factory
from models.torch_internals import LAYERS_THAT_TRAIN_DIFFERENTLY

CLASS_KEYWORDS = ("num_classes", "classes", "n_classes")
NO_DOWNLOAD: dict[str, tuple[str, ...]] = {
    "smp": ("encoder_weights",),
    "torchvision": ("weights", "weights_backbone"),
}
"""Keywords by which libraries download weights: None unless given, and not saved in checkpoints."""

_SIZES = {1: (75, 101), 8: (72, 104), 16: (80, 112), 32: (96, 96), 64: (64, 128), 128: (128, 128)}
"""For each multiple, an image size that is a multiple of it and of no larger one."""


class ForeignNetwork(SegmentationNetwork):
    """Adapts any network to the interface of `SegmentationNetwork`.

    Args:
        network: Network that maps (N, 3, H, W) images to logits (N, num_classes, h, w), a mapping
            with them as "out" or "logits", an object with them as `.logits`, or a sequence whose
            first entry is one of these. Its other outputs are auxiliary outputs in training if
            their channels are the classes.
        num_classes: Number of classes.
        size_multiple: Number that the height and width of the input must be multiples of. Other
            images are padded at the right and lower edge, and the logits are cropped. None: found
            by trying.

    Raises:
        ValueError: The output has none of these forms.
    """

    def __init__(
        self, network: nn.Module, num_classes: int, *, size_multiple: int | None = None
    ) -> None:
        super().__init__()
        self.network = _replace_sync_batchnorms(network)
        self.num_classes = num_classes
        self.size_multiple = size_multiple or 1
        if size_multiple is None:
            self.size_multiple = self._find_size_multiple()

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """See `SegmentationNetwork.compute_outputs`."""
        height, width = images.shape[-2:]
        down, right = -height % self.size_multiple, -width % self.size_multiple
        if down or right:
            images = F.pad(images, (0, right, 0, down), mode="replicate")
        found, *others = split_outputs(self._run(images, with_auxiliary))
        logits = self._check(found)
        auxiliary = [t for t in others if with_auxiliary and self._is_logits(t)]
        sized = (resize(t, images.shape[-2:]) for t in (logits, *auxiliary))
        return tuple(t[..., :height, :width] if down or right else t for t in sized)

    def _run(self, images: Tensor, with_auxiliary: bool) -> Any:
        """Run the network; torchvision's run their auxiliary head in eval mode too, in vain."""
        network = self.network
        if type(network) in (FCN, DeepLabV3) and not with_auxiliary:
            features = network.get_submodule("backbone")(images)
            return network.get_submodule("classifier")(features["out"])
        return network(images)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """Find the layers by tracing the channels of the output."""
        return tuple(self.get_submodule(name) for name in find_output_layers(self))

    def get_modes(self) -> Sequence[Callable[[], AbstractContextManager[None]]]:
        """See `SegmentationNetwork.get_modes`: in the current mode and as in training."""
        return (nullcontext, self._as_in_training)

    @contextmanager
    def _as_in_training(self) -> Iterator[None]:
        """Set the network's own modules to train mode, so that auxiliary heads run."""
        changed = [m for m in self.network.modules() if not m.training and not _is_layer(m)]
        for module in changed:
            module.training = True
        try:
            yield
        finally:
            for module in changed:
                module.training = False

    def _is_logits(self, output: Any) -> bool:
        return (
            isinstance(output, Tensor)
            and output.ndim == 4
            and output.shape[1] == self.num_classes
            and output.is_floating_point()
        )

    def _check(self, output: Any) -> Tensor:
        if not self._is_logits(output):
            what = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"{self.name or type(self.network).__name__} must return logits of shape "
                f"(N, {self.num_classes}, H, W) (a tensor, a mapping with 'out' or 'logits', an "
                f"object with .logits, or a sequence that begins with them); got {what}"
            )
        logits: Tensor = output
        return logits

    @torch.no_grad()
    def _find_size_multiple(self) -> int:
        """Find the smallest multiple that the network accepts; 1 if none works.

        Raises:
            ValueError: The network cannot be copied, which pruning and export need.
        """
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        try:
            trial = copy.deepcopy(self).eval()
        except Exception as error:
            raise ValueError(
                f"{type(self.network).__name__} cannot be copied: {error}. If it has the old "
                "torch.nn.utils.weight_norm or spectral_norm, take those of "
                "torch.nn.utils.parametrizations, which read the same weights"
            ) from error
        for multiple, size in _SIZES.items():
            try:
                output = trial.network(torch.zeros(1, 3, *size, device=device))
            except Exception:  # noqa: S112  any exception means that it refuses this size
                continue
            self._check(split_outputs(output)[0])
            return multiple
        return 1


def split_outputs(outputs: Any) -> list[Any]:
    """Return the logits first, then the other outputs.

    Raises:
        ValueError: The output is a mapping without "out" and "logits".
    """
    if isinstance(outputs, Tensor):
        return [outputs]
    logits = getattr(outputs, "logits", None)
    if isinstance(logits, Tensor):
        others = list(outputs.values()) if isinstance(outputs, Mapping) else (
            list(outputs) if isinstance(outputs, tuple) else list(vars(outputs).values())
        )  # fmt: skip
        return [logits, *(t for t in _flatten(others) if t is not logits)]
    if isinstance(outputs, Mapping):
        key = next((k for k in ("out", "logits") if k in outputs), None)
        if key is None:
            raise ValueError(
                f"a network that returns a mapping must return 'out' or 'logits' in it; got "
                f"{', '.join(map(str, outputs)) or 'nothing'}"
            )
        return [
            *split_outputs(outputs[key]),
            *_flatten([v for k, v in outputs.items() if k != key]),
        ]
    if isinstance(outputs, Sequence) and not isinstance(outputs, str) and outputs:
        return [*split_outputs(outputs[0]), *_flatten(list(outputs[1:]))]
    return [outputs]


def _flatten(values: list[Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, Mapping):
            found += _flatten(list(value.values()))
        elif isinstance(value, list | tuple):
            found += _flatten(list(value))
    return found


def _replace_sync_batchnorms(network: nn.Module) -> nn.Module:
    """Let every SyncBatchNorm be the BatchNorm2d that it is in one process, in place.

    SyncBatchNorm cannot be trained on a CPU, and is neither pruned nor folded. Batches that several
    processes share are in sync anyway (`trainables.learning.whole_batch`).
    """
    for module in network.modules():
        if type(module) is nn.SyncBatchNorm:
            module.__class__ = nn.BatchNorm2d  # type: ignore[assignment]
    return network


def _is_layer(module: nn.Module) -> bool:
    """Whether a module is a layer that may compute differently in training, such as a BatchNorm."""
    if isinstance(module, LAYERS_THAT_TRAIN_DIFFERENTLY):
        return True
    return type(module).__module__.startswith("torch.nn.")


def create_foreign(
    name: str, num_classes: int, kwargs: Mapping[str, Any], *, size_multiple: int | None = None
) -> SegmentationNetwork:
    """Import a network factory by name and call it.

    Args:
        name: Name of the factory: "package.module:factory", "path/to/file.py:factory", "smp:Unet",
            "torchvision:deeplabv3_resnet50".
        num_classes: Number of classes, passed as the one of `CLASS_KEYWORDS` that the factory
            takes.
        kwargs: Other keywords of the factory, JSON-serialisable.
        size_multiple: Multiple that the image sides must have, see `ForeignNetwork`.

    Raises:
        ValueError: The factory does not exist, does not take the keywords, fails, or does not
            return a segmentation network.
    """
    name = canonical_name(name)
    try:
        json.dumps(dict(kwargs), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the keywords of {name} must be JSON-serialisable: {error}") from error
    factory = find_factory(name)
    library = name.partition(":")[0]
    silent = NO_DOWNLOAD.get(library, ())
    keywords = _add_classes(name, factory, dict.fromkeys(silent) | dict(kwargs), num_classes)
    built = _call(name, factory, keywords)
    saved = {k: v for k, v in kwargs.items() if k not in silent}
    if any(kwargs.get(keyword) is not None for keyword in silent):
        if getattr(built, "aux_classifier", None) is not None:  # some weights have this head
            saved["aux_loss"] = True
        again = _add_classes(name, factory, dict.fromkeys(silent) | saved, num_classes)
        _check_rebuilt(name, built, again, factory)
    network = (
        built
        if isinstance(built, SegmentationNetwork)
        else ForeignNetwork(built, num_classes, size_multiple=size_multiple)
    )
    network.name = name
    network.kwargs = {"num_classes": num_classes, **saved}
    if isinstance(network, ForeignNetwork):
        network.kwargs = {**network.kwargs, "size_multiple": network.size_multiple}
    return network


def _call(name: str, factory: Factory, keywords: Mapping[str, Any]) -> nn.Module:
    """Call a factory; errors name it and the keywords."""
    device = torch.get_default_device()
    try:
        # Many networks compute with their initial weights, which the meta device does not have.
        with torch.device("cpu" if device.type == "meta" else device):
            built = factory(**keywords)
    except Exception as error:  # a user's factory may raise any exception
        raise ValueError(
            f"{name} cannot be built with {keywords}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(built, nn.Module):
        raise ValueError(f"{name} must return an nn.Module, got a {type(built).__name__}")
    return built


def _check_rebuilt(
    name: str, built: nn.Module, keywords: Mapping[str, Any], factory: Factory
) -> None:
    """Check that the keywords that checkpoints save, without downloads, build the same layers."""
    with torch.random.fork_rng(devices=[]):
        again = _call(name, factory, keywords)
    odd = sorted(built.state_dict().keys() ^ again.state_dict().keys())
    if odd:
        raise ValueError(
            f"{name} has other layers if it is built with {keywords}, as checkpoints are: "
            f"{', '.join(odd[:5])}; state the keywords that these layers depend on"
        )


def _add_classes(
    name: str, factory: Factory, kwargs: dict[str, Any], num_classes: int
) -> dict[str, Any]:
    """Add the number of classes under the keyword that the factory takes."""
    given = [keyword for keyword in CLASS_KEYWORDS if keyword in kwargs]
    if given:
        raise ValueError(
            f"the number of classes comes from the data (or from num_outputs); leave "
            f"{given[0]!r} out of the keywords of {name}"
        )
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {**kwargs, CLASS_KEYWORDS[0]: num_classes}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    named = [k for k in CLASS_KEYWORDS if k in parameters]
    if not named and not takes_any:
        raise ValueError(
            f"{name} must take the number of classes as one of {', '.join(CLASS_KEYWORDS)}; it "
            f"takes {', '.join(parameters) or 'nothing'}"
        )
    unknown = sorted(set(kwargs) - set(parameters))
    if unknown and not takes_any:
        raise ValueError(
            f"{name} takes the keywords {', '.join(parameters)}; got {', '.join(unknown)}"
        )
    return {**kwargs, (named or [CLASS_KEYWORDS[0]])[0]: num_classes}
