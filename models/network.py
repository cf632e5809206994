"""The base of every network: what pruning, checkpoints and the trainers may rely on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor, nn

from models.normalization import IMAGENET, Normalization
from models.output import WithAuxiliary


class SegmentationNetwork(nn.Module, ABC):
    """A network from normalised images to logits at the size of the images.

    Attributes:
        name: Its key in `models.MODELS`; empty unless `models.create_model` made it.
        kwargs: JSON-able keywords that make the same unpruned network again, without
            `backbone_weights`.
        normalization: Of the images; kept in checkpoints and exported files.
        outputs: For each class of the data the network's output that stands for it; None: the
            outputs are the classes.
    """

    name: str = ""
    kwargs: Mapping[str, Any] = {}
    normalization: Normalization = IMAGENET
    outputs: tuple[int, ...] | None = None

    @abstractmethod
    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        """Compute the logits first, then those of the auxiliary heads if these are asked for.

        Args:
            images: (N, 3, H, W) float, normalised, H and W at least 64.
            with_auxiliary: Whether to run the auxiliary heads, if the network has any.

        Returns:
            Tensors of shape (N, num_classes, H, W), unnormalised.
        """

    @abstractmethod
    def get_output_layers(self) -> tuple[nn.Module, ...]:
        """Return the layers whose output channels are the classes: pruning leaves those alone."""

    def get_modes(self) -> Sequence[Callable[[], AbstractContextManager[None]]]:
        """Return contexts that together show all that `compute_outputs` can compute."""
        return (nullcontext,)

    def get_backbone(self) -> nn.Module | None:
        """Return the part that may start from pretrained weights; None: the network has none."""
        return None

    def forward(self, images: Tensor) -> Tensor | WithAuxiliary:
        """Compute logits of the size of the images.

        Args:
            images: (N, 3, H, W) float, normalised, H and W at least 64.

        Returns:
            (N, num_classes, H, W) logits (as many as `outputs`, where these are chosen); in train
            mode `WithAuxiliary` if the network was built with auxiliary heads.
        """
        logits, *auxiliary = map(
            self._choose, self.compute_outputs(images, with_auxiliary=self.training)
        )
        return WithAuxiliary(logits, tuple(auxiliary)) if auxiliary else logits

    def _choose(self, logits: Tensor) -> Tensor:
        """Take the outputs that are classes of the data, in the data's order."""
        if self.outputs is None:
            return logits
        if self.outputs == tuple(range(len(self.outputs))):
            return logits[:, : len(self.outputs)]
        return logits[:, list(self.outputs)]
