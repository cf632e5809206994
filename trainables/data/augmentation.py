"""Random scale, crop, flip and colour of training samples, as torchvision v2 transforms."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from trainables.data.dataset import IGNORE_INDEX, Sample, TaughtSample, check_positive_size
from trainables.data.logit_map import LogitMap, Window, crop
from trainables.data.normalization import IMAGENET_MEAN

PADDING_COLOUR = tuple(round(value * 255) for value in IMAGENET_MEAN)


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentationConfig:
    """Settings of the augmentation of training images.

    Attributes:
        crop_size: (height, width) of every training sample in pixels.
        scale_range: Smallest and largest factor by which an image is scaled before the crop.
        flip_probability: Probability of a horizontal flip, 0 to 1.
        brightness: Largest relative change of brightness, 0 to 1.
        contrast: Largest relative change of contrast, 0 to 1.
        saturation: Largest relative change of saturation, 0 to 1.
        hue: Largest rotation of the hue in full turns, 0 to 0.5.

    Raises:
        ValueError: A value is outside its range.
    """

    crop_size: tuple[int, int]
    scale_range: tuple[float, float] = (0.5, 2.0)
    flip_probability: float = 0.5
    brightness: float = 0.25
    contrast: float = 0.25
    saturation: float = 0.25
    hue: float = 0.03

    def __post_init__(self) -> None:
        """Check every range."""
        check_positive_size("crop_size", self.crop_size)
        low, high = self.scale_range
        if not (0 < low <= high and math.isfinite(high)):
            raise ValueError(
                f"scale_range must be (low, high) with 0 < low <= high; got {self.scale_range!r}"
            )
        limits = {
            "flip_probability": 1,
            "brightness": 1,
            "contrast": 1,
            "saturation": 1,
            "hue": 0.5,
        }
        for field, limit in limits.items():
            value = getattr(self, field)
            if not 0 <= value <= limit:
                raise ValueError(f"{field} must be from 0 to {limit}; got {value!r}")


class CropWindow(NamedTuple):
    """The source and the destination of a crop.

    Attributes:
        source: (top, left, height, width) of the rectangle in the image, in pixels.
        place: (top, left, height, width) of the same rectangle in the crop; the rest is padding.
    """

    source: tuple[int, int, int, int]
    place: tuple[int, int, int, int]


class RandomScaleCrop(v2.Transform):  # type: ignore[misc]
    """Scale by a random factor, then crop at a random position, with padding if needed.

    The rectangle is chosen in the coordinates of the source image and only the rectangle is scaled,
    so that the cost depends on the size of the crop and not of the image. Images are padded with
    the ImageNet mean, labels with 255, a teacher's logits with 0.

    Args:
        crop_size: (height, width) of the crop.
        scale_range: Smallest and largest factor, drawn uniformly.
    """

    def __init__(self, crop_size: tuple[int, int], scale_range: tuple[float, float]) -> None:
        super().__init__()
        self.crop_size = crop_size
        self.scale_range = scale_range

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the window for one sample."""
        low, high = self.scale_range
        height, width = flat_inputs[0].shape[-2:]
        draw = torch.rand(3).tolist()
        scale = low + (high - low) * draw[0]
        rows = _draw_interval(height, self.crop_size[0], scale, draw[1])
        columns = _draw_interval(width, self.crop_size[1], scale, draw[2])
        window = CropWindow(
            (rows[0], columns[0], rows[1], columns[1]), (rows[2], columns[2], rows[3], columns[3])
        )
        return {"window": window}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Cut the window out of one image, mask or map of logits and scale it."""
        (top, left, height, width), place = params["window"]
        if isinstance(inpt, LogitMap):
            rows = Window(top, height, place[0], place[2])
            columns = Window(left, width, place[1], place[3])
            return crop(inpt, rows, columns, self.crop_size)
        part = inpt[..., top : top + height, left : left + width]
        size = [place[2], place[3]]
        if isinstance(inpt, tv_tensors.Mask):
            labels = part.as_subclass(torch.Tensor).unsqueeze(0)
            # resize_mask uses "nearest", which shifts labels by up to half a pixel against the
            # image.
            scaled = F.resize_image(labels, size, InterpolationMode.NEAREST_EXACT).squeeze(0)
            return tv_tensors.wrap(_paste(scaled, self.crop_size, place, IGNORE_INDEX), like=inpt)
        colours = part.as_subclass(torch.Tensor)
        scaled = F.resize_image(colours, size, InterpolationMode.BILINEAR, antialias=True)
        return tv_tensors.wrap(_paste(scaled, self.crop_size, place, PADDING_COLOUR), like=inpt)


class RandomColour(v2.Transform):  # type: ignore[misc]
    """Random brightness, contrast, saturation and hue as one affine map of the colours.

    Differs: ``v2.ColorJitter`` runs its four steps one after another, in random order, and rotates
        the hue in HSV. Here the hue rotates about the grey axis (YIQ), the order is fixed, and the
        product of the four matrices is applied once, which is much faster.

    Args:
        brightness: Largest relative change, 0 to 1.
        contrast: Largest relative change, 0 to 1.
        saturation: Largest relative change, 0 to 1.
        hue: Largest rotation in full turns, 0 to 0.5.
    """

    _transformed_types = (tv_tensors.Image,)

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        super().__init__()
        self.amplitudes = (brightness, contrast, saturation, hue)

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the four changes."""
        draw = (torch.rand(4) * 2 - 1).tolist()
        changes = [
            amplitude * value for amplitude, value in zip(self.amplitudes, draw, strict=True)
        ]
        return {"changes": changes}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Map the colours of one image."""
        brightness, contrast, saturation, hue = params["changes"]
        if not any(self.amplitudes):
            return inpt
        pixels = inpt.as_subclass(torch.Tensor).reshape(3, -1).to(torch.float32)
        matrix = _colour_matrix(saturation, hue) * (1 + brightness)
        grey = float((matrix @ pixels[:, ::16].mean(dim=1)) @ torch.tensor(_LUMA))
        bias = torch.full((3, 1), -contrast * grey)
        mapped = torch.addmm(bias, matrix * (1 + contrast), pixels)
        colours = mapped.round_().clamp_(0, 255).to(torch.uint8).reshape(inpt.shape)
        return tv_tensors.wrap(colours, like=inpt)


class Augmentation:
    """The whole augmentation of one sample; draws from torch's global CPU generator.

    Args:
        config: Ranges of the random changes.
    """

    def __init__(self, config: AugmentationConfig) -> None:
        self.config = config
        self.transforms = v2.Compose(
            [
                RandomScaleCrop(config.crop_size, config.scale_range),
                v2.RandomHorizontalFlip(config.flip_probability),
                RandomColour(config.brightness, config.contrast, config.saturation, config.hue),
            ]
        )

    def __call__(self, sample: Sample) -> Sample:
        """Augment one sample.

        Args:
            sample: image (3, H, W) uint8 and target (H, W) uint8, which are not changed.

        Returns:
            image (3, crop height, crop width) and target (crop height, crop width), uint8.
        """
        return Sample(*self._vary(tv_tensors.Image(sample.image), tv_tensors.Mask(sample.target)))

    def vary_taught(
        self, sample: Sample, teacher_logits: LogitMap, teacher_maps: Mapping[str, LogitMap]
    ) -> TaughtSample:
        """Augment one sample and its teacher's maps, with the same random draws as `__call__`.

        Args:
            sample: As for `__call__`.
            teacher_logits: Logits of the whole image, (C, h, w), which are not changed.
            teacher_maps: Maps of the teacher's layers likewise, by name.

        Returns:
            image and target as from `__call__`, and the maps of the crop at their strides.
        """
        image, target, logits, *maps = self._vary(
            tv_tensors.Image(sample.image),
            tv_tensors.Mask(sample.target),
            teacher_logits,
            *teacher_maps.values(),
        )
        return TaughtSample(image, target, logits, dict(zip(teacher_maps, maps, strict=True)))

    def _vary(self, *inputs: Tensor) -> list[Tensor]:
        outputs = self.transforms(*inputs)
        return [output.as_subclass(torch.Tensor).contiguous() for output in outputs]


# Source: ITU-R BT.601 luma weights, as in torchvision's rgb_to_grayscale; YIQ from the same
# standard.
_LUMA = (0.299, 0.587, 0.114)
_TO_YIQ = torch.tensor([_LUMA, (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)])
_FROM_YIQ: Tensor = torch.linalg.inv(_TO_YIQ)


def _draw_interval(size: int, crop: int, scale: float, draw: float) -> tuple[int, int, int, int]:
    """Return, for one axis, start and length in the source, start and length in the crop."""
    scaled = max(1, round(size * scale))
    low, high = min(0, scaled - crop), max(0, scaled - crop)
    offset = low + round((high - low) * draw)
    begin, end = max(0, offset), min(scaled, offset + crop)
    source_begin = min(size - 1, round(begin * size / scaled))
    source_end = min(size, max(source_begin + 1, round(end * size / scaled)))
    return source_begin, source_end - source_begin, begin - offset, end - begin


def _paste(
    part: Tensor,
    crop_size: tuple[int, int],
    place: tuple[int, int, int, int],
    padding: int | Sequence[int],
) -> Tensor:
    top, left, height, width = place
    if (height, width) == crop_size:
        return part
    fill = torch.tensor(padding, dtype=torch.uint8).reshape(*([-1] * (part.ndim == 3)), 1, 1)
    canvas = fill.expand(*part.shape[:-2], *crop_size).clone(memory_format=torch.contiguous_format)
    canvas[..., top : top + height, left : left + width] = part
    return canvas


def _colour_matrix(saturation: float, hue: float) -> Tensor:
    angle = 2 * math.pi * hue
    cosine, sine = (1 + saturation) * math.cos(angle), (1 + saturation) * math.sin(angle)
    turn = torch.tensor([[1.0, 0.0, 0.0], [0.0, cosine, -sine], [0.0, sine, cosine]])
    matrix: Tensor = _FROM_YIQ @ turn @ _TO_YIQ
    return matrix
