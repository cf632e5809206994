"""Pre- and postprocessing that is exported together with a network."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models.normalization import Normalization, Normalize

MAX_CLASSES = 256


class DeployedGraph(nn.Module):
    """A network with its preprocessing and postprocessing.

    Args:
        network: Network in eval mode.
        normalization: Normalisation applied to uint8 images; None: images are already normalised.
        image_size: Height and width of the network's input.
        source_size: Height and width of the images, which are resized to `image_size` and whose
            logits are resized back; None: images already have `image_size`.
        argmax: Whether to return the class of each pixel, (N, H, W) uint8, instead of logits.
    """

    def __init__(
        self,
        network: nn.Module,
        normalization: Normalization | None,
        image_size: tuple[int, int],
        source_size: tuple[int, int] | None = None,
        *,
        argmax: bool = False,
    ) -> None:
        super().__init__()
        self.network = network
        self.normalize = None if normalization is None else Normalize(normalization)
        self.image_size = image_size
        self.source_size = source_size
        self.argmax = argmax

    def forward(self, images: Tensor) -> Tensor:
        """Map (N, 3, H, W) uint8 or normalised float32 to logits or classes."""
        if self.normalize is not None:
            images = self.normalize(images)
        if self.source_size is not None:
            images = _resize(images, self.image_size)
        logits: Tensor = self.network(images)
        if self.source_size is not None:
            logits = _resize(logits, self.source_size)
        return choose_classes(logits) if self.argmax else logits


def choose_classes(logits: Tensor) -> Tensor:
    """Choose the class of each pixel.

    Args:
        logits: Logits, (N, num_classes, H, W).

    Returns:
        Classes, (N, H, W) uint8.

    Raises:
        ValueError: There are more classes than uint8 can hold.
    """
    if logits.shape[1] > MAX_CLASSES:
        raise ValueError(
            f"classes are uint8, so a network can have at most {MAX_CLASSES}, got {logits.shape[1]}"
        )
    return logits.argmax(dim=1).byte()


def _resize(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)
