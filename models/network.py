"""The base class of all networks, which pruning, checkpoints and training rely on."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from models.normalization import IMAGENET, Normalization
from models.output import WithAuxiliary

Module = TypeVar("Module", bound=nn.Module)


class SegmentationNetwork(nn.Module, ABC):
    """A network that maps normalised images to logits of the same height and width.

    Attributes:
        name: Name of the network, see `models.create_model`; empty unless `models.create_model`
            made it.
        kwargs: Keywords that build the same unpruned network again, JSON-serialisable and without
            `backbone_weights`.
        normalization: Normalisation of the images, which is saved in checkpoints and exported
            files.
        outputs: Index of the network's output for each class of the data; None: output c is class
            c.
    """

    name: str = ""
    kwargs: Mapping[str, Any] = {}
    normalization: Normalization = IMAGENET
    outputs: tuple[int, ...] | None = None

    @abstractmethod
    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """Compute the logits and, if requested, those of the auxiliary heads.

        Args:
            images: Images, (N, 3, H, W) float, normalised, H and W at least 64.
            with_auxiliary: Whether to run the auxiliary heads, if the network has any.

        Returns:
            Tensors of shape (N, num_classes, H, W), unnormalised; the main logits come first.
        """

    @abstractmethod
    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """Return the layers whose output channels are the classes, which pruning must keep."""

    def get_modes(self) -> Sequence[Callable[[], AbstractContextManager[None]]]:
        """Return contexts that together cover everything that `compute_outputs` can compute."""
        return (nullcontext,)

    def get_backbone(self) -> nn.Module | None:
        """Return the part that can start from pretrained weights; None if there is none."""
        return None

    def forward(self, images: Tensor) -> Tensor | WithAuxiliary:
        """Compute logits of the size of the images.

        Args:
            images: (N, 3, H, W) float, normalised, H and W at least 64.

        Returns:
            (N, num_classes, H, W) logits (`len(outputs)` channels if `outputs` is set); in train
            mode `WithAuxiliary` if the network was built with auxiliary heads.
        """
        logits, *auxiliary = map(
            self._choose, self.compute_outputs(images, with_auxiliary=self.training)
        )
        return WithAuxiliary(logits, tuple(auxiliary)) if auxiliary else logits

    def _choose(self, logits: Tensor) -> Tensor:
        """Select the outputs that are classes of the data, in the data's order."""
        if self.outputs is None:
            return logits
        if self.outputs == tuple(range(len(self.outputs))):
            return logits[:, : len(self.outputs)]
        return logits[:, list(self.outputs)]


def copy_to_cpu(model: Module) -> Module:
    """Copy a network to the CPU, in float32, eval mode and the default memory format.

    In channels_last, PyTorch implements a global pooling with `as_strided`. Channels cannot be
    traced through this operation, and it cannot be exported.

    Args:
        model: Network on any device; not changed.
    """
    work = copy.deepcopy(model).cpu().float()
    return work.to(memory_format=torch.contiguous_format).eval()


def name_output_layers(model: SegmentationNetwork, root: nn.Module | None = None) -> list[str]:
    """Return the names of the layers whose output channels are the classes.

    Args:
        model: Network.
        root: Part of the network that the names begin at; None: the network itself.
    """
    layers = {id(layer) for layer in model.get_output_layers()}
    modules = (model if root is None else root).named_modules()
    return [name for name, module in modules if id(module) in layers]


@torch.no_grad()
def find_accepted_size(model: SegmentationNetwork) -> tuple[int, int]:
    """Find an image size that a network accepts, by trying.

    Args:
        model: Network on the CPU in eval mode.

    Returns:
        Height and width, one of `_SIZES` or the one that a keyword of the network states.

    Raises:
        ValueError: The network accepts none of them.
    """
    stated = [_read_size(model.kwargs[key]) for key in _SIZE_KEYWORDS if key in model.kwargs]
    usual, *others = _SIZES
    sizes = dict.fromkeys([usual, *(size for size in stated if size is not None), *others])
    failure: Exception | None = None
    for size in sizes:
        try:
            with torch.random.fork_rng(devices=[]):
                for computes in model.get_modes():
                    with computes():
                        model.compute_outputs(torch.zeros(1, 3, *size), with_auxiliary=True)
        except Exception as error:  # a user's network may raise any exception
            failure = error
        else:
            return size
    tried = ", ".join(f"{height} x {width}" for height, width in sizes)
    raise ValueError(
        f"{model.name or type(model).__name__} accepts no image of {tried}; if it needs another "
        f"size, state it: --pipeline.student.kwargs '{{\"{_SIZE_KEYWORDS[0]}\": 320}}' (or "
        f"{' or '.join(_SIZE_KEYWORDS[1:])}, as its factory names it): {failure!r}"
    ) from failure


_SIZES = ((128, 128), (224, 224), (256, 256), (384, 384), (512, 512), (360, 480), (512, 1024))
_SIZE_KEYWORDS = ("img_size", "image_size", "input_size")


def _read_size(value: Any) -> tuple[int, int] | None:
    """Read a keyword such as 512, [360, 480] or [3, 360, 480]."""
    match value:
        case int(side) if side > 1:
            return side, side
        case [*_, int(height), int(width)]:
            return height, width
    return None
