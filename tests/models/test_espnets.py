"""ESPNet and ESPNetv2: the parameters that were published, and layers checked by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from models import create_model
from models.networks.espnet import ESP
from models.networks.espnetv2 import EfficientPyramidPooling


def count(name: str, num_classes: int, **kwargs: object) -> int:
    with torch.device("meta"):
        model = create_model(name, num_classes, **kwargs)
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(("num_classes", "expected"), [(11, 353_437), (12, 354_517)])
def test_espnet_has_the_published_number_of_parameters(num_classes: int, expected: int):
    assert count("espnet", num_classes) == expected


@pytest.mark.parametrize(
    ("scale", "expected", "published"),
    [
        (0.5, 80_230, 80_342),
        (1.0, 233_786, 234_010),
        (1.5, 468_010, 468_362),
        (2.0, 788_762, 789_242),
    ],
)
def test_espnetv2_has_the_published_number_of_parameters(
    scale: float, expected: int, published: int
):
    assert count("espnetv2", 20, scale=scale) == expected
    channels = [min(32, 32 * scale), 64 * scale, 128 * scale, 256 * scale]
    unused_slopes = sum(b - a for a, b in pairwise(channels))
    assert expected + unused_slopes == published


def test_unknown_widths_and_depths_are_refused():
    with pytest.raises(ValueError, match=r"scale must be one of .*got 3"):
        create_model("espnetv2", scale=3)
    with pytest.raises(ValueError, match="alpha2 and alpha3 must be at least 1, got 0 and 8"):
        create_model("espnet", alpha2=0)


def test_the_views_of_an_esp_module_are_summed_from_narrow_to_wide():
    esp = ESP(3, 11).eval()
    image = torch.randn(1, 3, 20, 20)
    reduced = esp.reduce(image)
    d1, d2, d4, d8, d16 = (view(reduced) for view in (esp.undilated, *esp.dilated))
    views = (d1, d2, d2 + d4, d2 + d4 + d8, d2 + d4 + d8 + d16)
    torch.testing.assert_close(esp(image), esp.norm(torch.cat(views, dim=1)))
    assert [view.shape[1] for view in views] == [3, 2, 2, 2, 2]


def test_pyramid_pooling_is_a_shuffled_and_grouped_convolution():
    pooling = EfficientPyramidPooling(6, 4, 7).eval()
    views = [torch.randn(1, 4, 9, 9) for _ in pooling.fuse]
    joined = torch.cat(views, dim=1).reshape(1, 5, 4, 9, 9).transpose(1, 2).reshape(1, 20, 9, 9)
    grouped = torch.cat([fuse.weight for fuse in pooling.fuse], dim=1)
    expected = F.conv2d(joined, grouped, padding=1, groups=4)
    found = sum(fuse(view) for fuse, view in zip(pooling.fuse, views, strict=True))
    torch.testing.assert_close(found, expected)
