"""Configuration of a network: architecture, initial weights and normalisation."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from models import SegmentationNetwork, check_name, create_model
from models.checkpoint import is_checkpoint, load_checkpoint, read_structure
from models.class_layers import renew_class_layers
from models.foreign import CLASS_KEYWORDS
from models.normalization import Normalization
from models.pretrained.finding import load_weights
from models.resolving import (
    UntrustedNetworkError,
    allow,
    canonical_name,
    is_file,
    is_foreign,
    split_name,
)
from models.user_code import hash_user_code
from trainables.artifacts.checksum import checksum


class Keywords(dict[str, Any]):
    """JSON keywords that can be hashed, and are not changed once in a configuration."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(json.dumps(self, sort_keys=True))


_JSON = tyro.constructors.PrimitiveConstructorSpec(
    nargs=1,
    metavar="JSON",
    instance_from_str=lambda words: json.loads(words[0]),
    is_instance=lambda value: isinstance(value, dict),
    str_from_instance=lambda value: [json.dumps(value)],
)


@dataclass(frozen=True, kw_only=True, slots=True)
class NormalizationConfig:
    """Normalisation of a network's input: (pixel / scale - mean) / std, channel by channel.

    Values that are None come from the checkpoint of the weights, or else from ImageNet.

    Attributes:
        mean: Mean after the division by scale, in the network's channel order.
        std: Standard deviation likewise, above 0.
        scale: Divisor of pixels of 0 to 255: 255 for means in 0..1, 1 for means in 0..255.
        channel_order: Channel order of the network's input.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    scale: float | None = None
    channel_order: Literal["rgb", "bgr"] | None = None

    def __post_init__(self) -> None:
        self.complete(Normalization())

    def complete(self, otherwise: Normalization) -> Normalization:
        """Return the values that are set here, and the rest from `otherwise`."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(otherwise, **{k: v for k, v in given.items() if v is not None})


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """A built-in network or your own.

    Attributes:
        name: Name of the network: a key of `models.MODELS`, smp:Unet (any of
            segmentation-models-pytorch), torchvision:deeplabv3_resnet50 (any of torchvision), or
            your own: package.module:factory or path/to/file.py:factory.
        kwargs: Further keywords of the network, a JSON object.
        weights: File of weights of the whole network: a segfront checkpoint (pruned or not), a
            safetensors file, or a .pth of tensors. A relative path is also looked up below
            $SEGFRONT_WEIGHTS. None: random weights.
        new_classes: Initialise the class layers anew instead of loading them, because the weights
            are for other classes, be they as many or not.
        num_outputs: Number of outputs of the network if it has more than the data have classes
            (such as one for void); the first outputs are then the classes. None: one per class.
        outputs: Index of the network's output for each class of the data, if the order differs.
            None: output c is class c.
        normalization: Normalisation of the network's input.
        backbone: Backbone of a built-in network: a segmentation-models-pytorch encoder, or "tu-"
            and a timm model. None: the network's default.
        backbone_weights: Weights of a built-in network's backbone. None: random; "imagenet":
            downloaded by the library; else a safetensors file, looked up like `weights`.
        width: Channel multiplier of a built-in network; None: the network's default.
        output_stride: Stride of a built-in network's backbone; smaller is finer and slower. None:
            the network's default.
        decoder_channels: Decoder channels of the built-in DeepLabV3+; None: the network's default.
        auxiliary: Train a built-in network with an auxiliary head, whose loss has the weight
            `TrainConfig.auxiliary_weight`.
    """

    name: str = "dual_branch"
    kwargs: Annotated[dict[str, Any], _JSON] = field(default_factory=Keywords)
    weights: str | None = None
    new_classes: bool = False
    num_outputs: int | None = None
    outputs: tuple[int, ...] | None = None
    normalization: NormalizationConfig = field(default_factory=NormalizationConfig)
    backbone: str | None = None
    backbone_weights: str | None = None
    width: float | None = None
    output_stride: int | None = None
    decoder_channels: int | None = None
    auxiliary: bool = False

    def __post_init__(self) -> None:
        check_name(self.name)
        if not isinstance(self.kwargs, Mapping):
            raise ValueError(f"kwargs must be a JSON object, got {self.kwargs!r}")
        for key in sorted({"name", "num_classes", "outputs", *CLASS_KEYWORDS} & set(self.kwargs)):
            raise ValueError(
                f"kwargs must leave out {key}: the network has a field of its own for its name and "
                "its outputs, and the number of classes comes from the data, or from num_outputs; "
                f"got {self.kwargs[key]!r}"
            )
        try:
            text = json.dumps(dict(self.kwargs), allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"kwargs must be a JSON object: {error}") from error
        object.__setattr__(self, "kwargs", Keywords(json.loads(text)))
        if self.width is not None and self.width <= 0:
            raise ValueError(f"width must be greater than 0, got {self.width}")
        if self.num_outputs is not None and self.num_outputs < 2:
            raise ValueError(f"num_outputs must be at least 2, got {self.num_outputs}")

    def weights_path(self) -> Path | None:
        """Return the local file of the backbone's weights, if there is one.

        Raises:
            ValueError: The file exists neither as given nor below $SEGFRONT_WEIGHTS.
        """
        if self.backbone_weights in (None, "imagenet"):
            return None
        return _find_file(str(self.backbone_weights), "backbone_weights must be imagenet or")

    def given_weights(self) -> Path | None:
        """Return the local file of the whole network's weights, if there is one.

        Raises:
            ValueError: The file exists neither as given nor below $SEGFRONT_WEIGHTS.
        """
        return None if self.weights is None else _find_file(self.weights, "weights must be")

    def settle(self) -> NetworkConfig:
        """Return a copy with absolute paths, including that of a user's source file.

        Raises:
            ValueError: A file of weights is missing.
        """
        backbone, given = self.weights_path(), self.given_weights()
        return replace(
            self,
            name=canonical_name(self.name) if is_foreign(self.name) else self.name,
            weights=self.weights if given is None else str(given.absolute()),
            backbone_weights=self.backbone_weights
            if backbone is None
            else str(backbone.absolute()),
        )

    def without_weights(self) -> NetworkConfig:
        """Return the same network with random weights, for any number of classes."""
        return replace(
            self, weights=None, backbone_weights=None, new_classes=False, num_outputs=None,
            outputs=None,
        )  # fmt: skip

    def allow(self) -> None:
        """Allow checkpoints to name this network in this process; see `models.resolving.allow`."""
        allow(self.name)

    def build(self, num_classes: int) -> SegmentationNetwork:
        """Build the network in train mode.

        Args:
            num_classes: Number of classes of the data.

        Raises:
            ValueError: The network does not accept an option, or the weights do not fit.
        """
        self.allow()
        path = self.given_weights()
        if path is not None and is_checkpoint(path):
            model = self._load(path, num_classes)
        else:
            model = create_model(
                self.name,
                self.num_outputs or num_classes,
                outputs=self._choose_outputs(num_classes, self.num_outputs or num_classes),
                **self._get_options(),
            )
            if path is not None:
                load_weights(model, path, new_classes=self.new_classes)
        model.normalization = self.normalization.complete(model.normalization)
        return model.train()

    def content(self) -> dict[str, Any]:
        """Return everything that the network and its initial weights depend on: all fields.

        A file of weights is represented by its checksum, a user's network by the hash of its code.
        """
        content = {f.name: getattr(self, f.name) for f in fields(self)}
        path, given = self.weights_path(), self.given_weights()
        if path is not None:
            content["backbone_weights"] = checksum(path)
        if given is not None:
            content["weights"] = checksum(given)
        if is_foreign(self.name):
            module, factory = split_name(self.name)
            content["name"] = f"{Path(module).name if is_file(module) else module}:{factory}"
        normalization = self.normalization
        content["normalization"] = {
            f.name: getattr(normalization, f.name) for f in fields(normalization)
        }
        return {**content, "kwargs": dict(self.kwargs), "code": hash_user_code(self.name)}

    def _get_options(self) -> dict[str, Any]:
        """Return the keywords of `create_model`; some fields apply only to built-in networks."""
        if is_foreign(self.name):
            return dict(self.kwargs)
        names = ("backbone", "width", "output_stride", "decoder_channels")
        given = {name: getattr(self, name) for name in names}
        options = {name: value for name, value in given.items() if value is not None}
        if self.backbone_weights is not None:
            options["backbone_weights"] = self.weights_path() or self.backbone_weights
        if self.auxiliary:
            options["auxiliary"] = True
        return {**options, **self.kwargs}

    def _choose_outputs(self, num_classes: int, num_outputs: int) -> tuple[int, ...] | None:
        """Return which outputs of the network are the classes; None: all, in order."""
        if self.outputs is not None and len(self.outputs) != num_classes:
            raise ValueError(
                f"outputs must name one output for each of the {num_classes} classes, got "
                f"{len(self.outputs)}"
            )
        if num_outputs < num_classes:
            raise ValueError(
                f"the network has {num_outputs} outputs for {num_classes} classes; num_outputs "
                "must be at least the number of classes"
            )
        if self.outputs is None and num_outputs > num_classes:
            return tuple(range(num_classes))
        return self.outputs

    def _load(self, path: Path, num_classes: int) -> SegmentationNetwork:
        """Read a segfront checkpoint, which also has the widths of the network."""
        is_own = is_foreign(self.name)
        named = read_structure(path).name
        other = ValueError(
            f"{path} is a checkpoint of {named}; set the network's name to that instead of "
            f"{self.name}"
        )
        try:
            model = load_checkpoint(path, factory=self.name if is_own else None)
        except UntrustedNetworkError:
            raise other from None
        if model.name != (canonical_name(self.name) if is_own else self.name):
            raise other
        if self.new_classes:
            renew_class_layers(model, self.num_outputs or num_classes)
        num_outputs = int(model.kwargs["num_classes"])
        if self.num_outputs not in (None, num_outputs):
            raise ValueError(
                f"{path} has a network with {num_outputs} outputs; leave num_outputs out or set it "
                f"to that number instead of {self.num_outputs}"
            )
        known = num_outputs if model.outputs is None else len(model.outputs)
        if self.outputs is not None or self.num_outputs is not None:
            model.outputs = self._choose_outputs(num_classes, num_outputs)
            model.kwargs = {**model.kwargs, "outputs": model.outputs}
        elif known != num_classes:
            raise ValueError(
                f"{path} has {known} classes, but the data have {num_classes}; state which "
                "of its outputs are the classes (outputs), or initialise the class layers anew "
                "(new_classes)"
            )
        return model


def _find_file(name: str, allowed: str) -> Path:
    given = Path(name).expanduser()
    shared = os.environ.get("SEGFRONT_WEIGHTS")
    for path in (given, *([Path(shared) / given] if shared and not given.is_absolute() else [])):
        if path.is_file():
            return path
    raise ValueError(
        f"{allowed} an existing file of weights; {given} is neither here nor below "
        f"SEGFRONT_WEIGHTS={shared or '(not set)'}"
    )
