"""ENet, ERFNet, EDANet, DABNet, CGNet, SegNet and NDNet: their sizes, and what unpooling does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import create_model
from models.conv_pool_downsampling import ConvPoolDownsampling
from models.max_unpooling import max_pool, max_unpool


@pytest.mark.parametrize(
    ("name", "kwargs", "num_params", "published_m", "tolerance"),
    [
        ("cgnet", {}, 496_306, 0.496, 0.01),
        ("dabnet", {}, 756_643, 0.76, 0.01),
        ("edanet", {}, 689_485, 0.68, 0.015),  # the authors' own code has 0.689 M
        ("enet", {}, 363_954, 0.36, 0.015),  # the paper says 0.37 M
        ("erfnet", {}, 2_064_191, 2.1, 0.02),  # the authors' own code has 2.06 M
        ("ndnet", {"auxiliary": True}, 502_622, 0.50, 0.01),
        ("ndnet", {}, 482_379, 0.50, 0.04),
        ("segnet", {}, 29_453_971, 29.5, 0.01),
    ],
)
def test_parameters(
    name: str, kwargs: dict[str, Any], num_params: int, published_m: float, tolerance: float
):
    with torch.device("meta"):
        model = create_model(name, **kwargs)
    assert sum(p.numel() for p in model.parameters()) == num_params
    assert num_params / 1e6 == pytest.approx(published_m, rel=tolerance)


def test_unpooling_puts_values_where_the_maxima_were():
    features = torch.tensor([[[[1.0, 2, 9], [3, 0, 8], [7, 6, 5]]]])
    pooled = max_pool(features)
    assert pooled.maxima.tolist() == [[[[3.0, 9], [7, 5]]]]
    values = torch.tensor([[[[10.0, 20], [30, 40]]]])
    expected = [[[[0.0, 0, 20], [10, 0, 0], [30, 0, 40]]]]
    assert max_unpool(values, pooled).tolist() == expected


def test_unpooling_hands_no_gradient_to_the_pooled_map():
    features = torch.randn(1, 2, 4, 6, requires_grad=True)
    values = torch.randn(1, 2, 2, 3, requires_grad=True)
    max_unpool(values, max_pool(features)).sum().backward()
    assert torch.equal(values.grad, torch.ones_like(values))
    assert not features.grad.any()


@pytest.mark.parametrize("size", [(8, 12), (7, 11)])
def test_downsampling_keeps_the_pooled_channels(size: tuple[int, int]):
    layer = ConvPoolDownsampling(3, 16, torch.nn.Identity()).eval()
    images = torch.rand(1, 3, *size)
    result = layer(images)
    assert result.shape == (1, 16, 4, 6)
    pooled = result[:, 13:] * (1 + layer.norm.eps) ** 0.5
    torch.testing.assert_close(pooled[..., :3, :5], layer.pool(images)[..., :3, :5])
