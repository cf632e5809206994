"""The light networks: their sizes, and what unpooling does."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import create_model
from models.blocks.conv_pool_downsampling import ConvPoolDownsampling
from models.blocks.max_unpooling import max_pool, max_unpool
from models.cost import count_cost


@pytest.mark.parametrize(
    ("name", "kwargs", "num_params", "published_m", "tolerance"),
    [
        ("asymmetric_pyramid", {}, 12_918_891, 12.92, 0.01),  # unpublished
        ("cgnet", {}, 496_306, 0.496, 0.01),
        ("dabnet", {}, 756_643, 0.76, 0.01),
        ("dfanet", {}, 1_839_243, 1.84, 0.01),  # the paper says 7.8 M, see its docstring
        ("edanet", {}, 689_485, 0.68, 0.015),  # the authors' own code has 0.689 M
        ("enet", {}, 363_954, 0.36, 0.015),  # the paper says 0.37 M
        ("erfnet", {}, 2_064_191, 2.1, 0.02),  # the authors' own code has 2.06 M
        ("mscfnet", {}, 1_149_724, 1.15, 0.01),
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


@pytest.mark.parametrize(
    ("name", "num_classes", "size", "published_g"),
    [
        ("asymmetric_pyramid", 11, (720, 960), 109.2 / 2),  # a multiply-accumulate counted twice
        ("dfanet", 19, (1024, 1024), 3.4),
        ("dfanet", 19, (512, 1024), 1.7),
    ],
)
def test_cost(name: str, num_classes: int, size: tuple[int, int], published_g: float):
    with torch.device("meta"):
        model = create_model(name, num_classes)
    assert count_cost(model, (3, *size)).macs / 1e9 == pytest.approx(published_g, rel=0.01)


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
    assert features.grad is None


@pytest.mark.parametrize("size", [(8, 12), (7, 11)])
def test_downsampling_keeps_the_pooled_channels(size: tuple[int, int]):
    layer = ConvPoolDownsampling(3, 16, torch.nn.Identity()).eval()
    images = torch.rand(1, 3, *size)
    result = layer(images)
    assert result.shape == (1, 16, 4, 6)
    pooled = result[:, 13:] * (1 + layer.norm.eps) ** 0.5
    torch.testing.assert_close(pooled[..., :3, :5], layer.pool(images)[..., :3, :5])
