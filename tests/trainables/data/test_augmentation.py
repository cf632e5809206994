from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors

from trainables.data import Augmentation, AugmentationConfig, Sample, normalize
from trainables.data.augmentation import (
    PADDING_COLOUR,
    CropWindow,
    RandomColour,
    RandomScaleCrop,
    _draw_interval,
)

STILL = {"flip_probability": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def two_halves(height: int = 40, width: int = 60) -> Sample:
    """Left half black and class 0, right half white and class 1."""
    target = torch.zeros(height, width, dtype=torch.uint8)
    target[:, width // 2 :] = 1
    return Sample((target * 255).expand(3, -1, -1).clone(), target)


def test_nothing_varied_leaves_the_sample_as_it_is():
    sample = two_halves()
    config = AugmentationConfig(crop_size=(40, 60), scale_range=(1.0, 1.0), **STILL)
    image, target = Augmentation(config)(sample)
    assert torch.equal(image, sample.image)
    assert torch.equal(target, sample.target)


def test_image_and_labels_stay_together():
    config = AugmentationConfig(crop_size=(32, 48), **(STILL | {"flip_probability": 0.5}))
    torch.manual_seed(0)
    augment = Augmentation(config)
    for _ in range(30):
        image, target = augment(two_halves())
        inside = target != 255
        agree = (image[0] > 127) == (target == 1)
        assert agree[inside].float().mean() > 0.95
        outside = image[:, ~inside].unique(dim=1)
        assert outside.shape[1] <= 1
        if outside.shape[1]:
            assert tuple(outside[:, 0].tolist()) == PADDING_COLOUR


def test_scaled_labels_lie_under_the_centres_of_their_pixels():
    columns = torch.arange(80).expand(8, 80)
    labels = tv_tensors.Mask(columns.to(torch.uint8))
    scale_crop = RandomScaleCrop((16, 80), (1.6, 1.6))
    params = {"window": CropWindow((0, 0, 8, 50), (0, 0, 13, 80))}

    scaled = scale_crop.transform(labels, params)

    centres = ((torch.arange(80) + 0.5) * 50 / 80).floor()
    assert torch.equal(scaled[0], centres.to(torch.uint8))


def test_flip_mirrors_both():
    config = AugmentationConfig(
        crop_size=(40, 60), scale_range=(1.0, 1.0), **(STILL | {"flip_probability": 1.0})
    )
    sample = two_halves()
    image, target = Augmentation(config)(sample)
    assert torch.equal(image, sample.image.flip(-1))
    assert torch.equal(target, sample.target.flip(-1))


def test_the_sample_is_not_written_to():
    sample = two_halves()
    before = Sample(sample.image.clone(), sample.target.clone())
    Augmentation(AugmentationConfig(crop_size=(16, 16)))(sample)
    assert torch.equal(sample.image, before.image)
    assert torch.equal(sample.target, before.target)


@given(
    size=st.integers(1, 3000),
    crop=st.integers(1, 1200),
    scale=st.floats(0.1, 4.0),
    draw=st.floats(0, 1),
)
@settings(max_examples=300)
def test_interval_lies_in_source_and_crop(size, crop, scale, draw):
    begin, length, place, covered = _draw_interval(size, crop, scale, draw)
    assert begin >= 0
    assert length >= 1
    assert begin + length <= size
    assert place >= 0
    assert covered == min(crop, max(1, round(size * scale)))
    assert place + covered <= crop


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((0.5, 0.0, 0.0, 0.0), (150, 75, 30)),  # brightness: times 1.5
        ((0.0, 0.0, -1.0, 0.0), (61.5, 61.5, 61.5)),  # no saturation: the luma 0.299 r + ...
        ((0.0, -1.0, 0.0, 0.0), (61.5, 61.5, 61.5)),  # no contrast: the mean luma
        ((0.0, 0.0, 0.0, 1.0), (100, 50, 20)),  # a whole turn of the hue
    ],
)
def test_colour_by_hand(changes, expected):
    image = tv_tensors.Image(torch.tensor([100, 50, 20]).view(3, 1, 1).expand(3, 4, 4).byte())
    varied = RandomColour(1.0, 1.0, 1.0, 0.5).transform(image, {"changes": changes})
    for channel, value in enumerate(expected):
        assert varied[channel].float().mean().item() == pytest.approx(value, abs=1.01)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("crop_size", (0, 4)),
        ("scale_range", (2.0, 0.5)),
        ("scale_range", (0.0, 1.0)),
        ("flip_probability", 1.5),
        ("brightness", -0.1),
        ("hue", 0.6),
        ("contrast", float("nan")),
    ],
)
def test_config_out_of_range_names_field_and_value(field, value):
    with pytest.raises(ValueError, match=field):
        AugmentationConfig(**({"crop_size": (8, 8)} | {field: value}))


def test_normalize_by_hand():
    images = torch.tensor([0, 128, 255], dtype=torch.uint8).view(1, 3, 1, 1).repeat(2, 1, 4, 5)
    before = images.clone()
    result = normalize(images)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    expected = torch.tensor([(0 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (1 - 0.406) / 0.225])
    torch.testing.assert_close(result[1, :, 2, 3], expected)
    assert torch.equal(images, before)


@pytest.mark.parametrize("images", [torch.zeros(1, 3, 4, 4), torch.zeros(3, 4, 4).byte()])
def test_normalize_refuses_other_tensors(images):
    with pytest.raises(ValueError, match="uint8 of shape"):
        normalize(images)
