"""Which network is built, from which weights it starts, and how it wants its pixels."""

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
    """Keywords that are JSON and, once in a configuration, stay as they are."""

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
    """How a network wants its pixels: (pixel / scale - mean) / std, channel by channel.

    What is None is as the checkpoint of the weights says, else as for ImageNet.

    Attributes:
        mean: After the division, in the network's channel order.
        std: As `mean`; above 0.
        scale: What pixels of 0 to 255 are divided by: 255 for means within 0..1, 1 for means
            within 0..255.
        channel_order: The order in which the network takes the channels.
    """

    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    scale: float | None = None
    channel_order: Literal["rgb", "bgr"] | None = None

    def __post_init__(self) -> None:
        self.complete(Normalization())

    def complete(self, otherwise: Normalization) -> Normalization:
        """Take what is stated here, and the rest from `otherwise`."""
        given = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(otherwise, **{k: v for k, v in given.items() if v is not None})


@dataclass(frozen=True, kw_only=True, slots=True)
class NetworkConfig:
    """A network of ours or of yours.

    Attributes:
        name: A key of `models.MODELS`, smp:Unet (any of segmentation-models-pytorch),
            torchvision:deeplabv3_resnet50 (any of torchvision), or your own:
            package.module:factory or path/to/file.py:factory.
        kwargs: JSON object; further keywords of the network.
        weights: File of weights of the whole network: a checkpoint of ours (pruned or not), a
            safetensors file, or a .pth of tensors; a relative path may also lie below
            $SEGFRONT_WEIGHTS. None: random.
        new_classes: Let the layers that give the classes start anew where the weights have other
            classes.
        num_outputs: Outputs of the network, where it has more than there are classes (such as one
            for void); the first ones are the classes. None: as many as classes.
        outputs: For each class of the data the output that stands for it, where the order is
            another. None: in the order of the data.
        normalization: How it wants its pixels.
        backbone: Of a network of ours: a segmentation-models-pytorch encoder, or "tu-" and a timm
            model; None: the network's own.
        backbone_weights: Of a network of ours. None: random; "imagenet": downloaded by the library;
            else a safetensors file, found as `weights`.
        width: Of a network of ours: channel multiplier; None: the network's own.
        output_stride: Of a network of ours: of the backbone; smaller is finer and slower. None: the
            network's own.
        decoder_channels: Of a DeepLabV3+ of ours; None: the network's own.
        auxiliary: Train a network of ours with an auxiliary head (its loss weighs
            `TrainConfig.auxiliary_weight`).
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
        """Local file of the backbone's weights, if it starts from one.

        Raises:
            ValueError: The file exists neither as given nor below $SEGFRONT_WEIGHTS.
        """
        if self.backbone_weights in (None, "imagenet"):
            return None
        return _find_file(str(self.backbone_weights), "backbone_weights must be imagenet or")

    def given_weights(self) -> Path | None:
        """Local file of the whole network's weights, if it has some.

        Raises:
            ValueError: The file exists neither as given nor below $SEGFRONT_WEIGHTS.
        """
        return None if self.weights is None else _find_file(self.weights, "weights must be")

    def settle(self) -> NetworkConfig:
        """Make every path absolute, that of a file of yours too.

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
        """The same network with random weights, for any number of classes."""
        return replace(
            self, weights=None, backbone_weights=None, new_classes=False, num_outputs=None,
            outputs=None,
        )  # fmt: skip

    def allow(self) -> None:
        """Let checkpoints name this network in this process; see `models.resolving.allow`."""
        allow(self.name)

    def build(self, num_classes: int) -> SegmentationNetwork:
        """Build the network in train mode.

        Args:
            num_classes: Of the data.

        Raises:
            ValueError: The network does not know an option, or the weights do not fit.
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
        """What the network and its first weights depend on: all fields.

        A file of weights counts by its bytes, a network of the user's own by its code.
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
        """Keywords of `create_model`; fields that only networks of ours have are theirs alone."""
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
        """Say which outputs of the network are the classes; None: all, in their order."""
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
        """Read a checkpoint of ours: the file says how wide the network is."""
        is_own = is_foreign(self.name)
        named = read_structure(path).name
        other = ValueError(
            f"{path} is a checkpoint of {named}; name that network instead of {self.name}"
        )
        try:
            model = load_checkpoint(path, factory=self.name if is_own else None)
        except UntrustedNetworkError:
            raise other from None
        if model.name != (canonical_name(self.name) if is_own else self.name):
            raise other
        num_outputs = int(model.kwargs["num_classes"])
        known = num_outputs if model.outputs is None else len(model.outputs)
        if self.outputs is not None or self.num_outputs is not None:
            model.outputs = self._choose_outputs(num_classes, num_outputs)
            model.kwargs = {**model.kwargs, "outputs": model.outputs}
        elif known != num_classes:
            if not self.new_classes:
                raise ValueError(
                    f"{path} tells {known} classes apart, the data have {num_classes}; say which "
                    "of its outputs are the classes (outputs), or let the class layers start anew "
                    "(new_classes)"
                )
            renew_class_layers(model, num_classes)
        return model


def _find_file(name: str, allowed: str) -> Path:
    given = Path(name).expanduser()
    shared = os.environ.get("SEGFRONT_WEIGHTS")
    for path in (given, *([Path(shared) / given] if shared and not given.is_absolute() else [])):
        if path.is_file():
            return path
    raise ValueError(
        f"{allowed} a file of weights; {given} is neither here nor below "
        f"SEGFRONT_WEIGHTS={shared or '(not set)'}"
    )
