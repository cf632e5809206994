"""The fast forms compute what PyTorch's and timm's own layers compute, gradients too."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.layers import Conv2dSame
from torch import Tensor, nn

from models import create_model
from models.blocks.cpu_convolutions import (
    DilatedConv2d,
    DilatedDepthwiseConv2d,
    SamePaddedConv2d,
    use_cpu_convolutions,
)


def compute(layer: nn.Module, images: Tensor) -> list[Tensor]:
    images = images.clone().requires_grad_()
    output = layer(images)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).double()
    gradients = torch.autograd.grad((output * weights).sum(), [images, *layer.parameters()])
    return [output.detach(), *gradients]


def check(layer: nn.Conv2d, kind: type[nn.Conv2d], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    layer = layer.double()
    fast = copy.deepcopy(layer)
    use_cpu_convolutions(fast)
    assert type(fast) is kind
    images = torch.randn(2, layer.in_channels, *size, dtype=torch.float64)
    for found, expected in zip(compute(fast, images), compute(layer, images), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():  # as in an inference: the library's own arithmetic
        assert torch.equal(fast.eval()(images), layer(images))


@pytest.mark.parametrize("size", [(16, 20), (15, 21), (5, 64)])
@pytest.mark.parametrize("kernel_size", [3, 5, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("groups", [1, 6])
def test_same_padding(size: tuple[int, int], kernel_size: int, stride: int, groups: int):
    layer = Conv2dSame(6, 12, kernel_size, stride=stride, groups=groups)
    check(layer, SamePaddedConv2d, size)


@pytest.mark.parametrize("size", [(15, 20), (16, 21), (4, 9)])
@pytest.mark.parametrize(
    ("kernel_size", "dilation"), [(3, 2), (5, 2), (3, 6), ((3, 1), (4, 1)), (3, (2, 3))]
)
@pytest.mark.parametrize("bias", [True, False])
def test_dilated_depthwise(
    size: tuple[int, int],
    kernel_size: int | tuple[int, int],
    dilation: int | tuple[int, int],
    bias: bool,
):
    kernel = (kernel_size,) * 2 if isinstance(kernel_size, int) else kernel_size
    dilations = (dilation,) * 2 if isinstance(dilation, int) else dilation
    padding = tuple(d * (k // 2) for k, d in zip(kernel, dilations, strict=True))
    layer = nn.Conv2d(6, 6, kernel, padding=padding, dilation=dilations, groups=6, bias=bias)
    check(layer, DilatedDepthwiseConv2d, size)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 12, 3, padding=2, dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, stride=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=1, dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=6, padding_mode="reflect"),
        nn.Conv2d(6, 6, 3, padding="same", dilation=2, groups=6),
        nn.Conv2d(6, 6, 3, padding=2, dilation=2, groups=3),
        nn.Conv2d(25, 6, (3, 1), padding=(2, 0), dilation=(2, 1)),
    ],
)
def test_dilated(layer: nn.Conv2d):
    check(layer, DilatedConv2d, (15, 20))


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("channels_groups", [(16, 1), (25, 1), (40, 2), (24, 24)])
def test_gradients_of_dilated_layers_are_right_in_bfloat16(
    channels_groups: tuple[int, int], memory_format: torch.memory_format
):
    channels, groups = channels_groups
    torch.manual_seed(0)
    layer = nn.Conv2d(channels, channels, 3, padding=2, dilation=2, groups=groups)
    images = torch.randn(2, channels, 16, 40)
    _, *expected = compute(layer.double(), images.double())
    layer = layer.float().to(memory_format=memory_format)
    use_cpu_convolutions(layer)
    poison = [torch.full((1 << size,), torch.nan) for size in range(8, 22)]
    del poison  # what nothing was written to is NaN now, as far as a test can see to it
    with torch.autocast("cpu", torch.bfloat16):
        output, *found = compute(layer, images.contiguous(memory_format=memory_format))
    if memory_format == torch.channels_last:
        assert output.is_contiguous(memory_format=memory_format)
    for gradient, right in zip(found, expected, strict=True):
        assert (gradient - right).norm() < 0.02 * right.norm()


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.Conv2d(6, 6, (1, 3), padding=(0, 2), dilation=(1, 2)),
    ],
)
def test_other_layers_are_left_alone(layer: nn.Conv2d):
    use_cpu_convolutions(layer)
    assert type(layer) is nn.Conv2d


def test_a_network_has_them():
    kinds = {
        type(module)
        for module in create_model(
            "deeplabv3plus", num_classes=5, backbone="tu-tf_efficientnet_lite0"
        ).modules()
    }
    assert {DilatedDepthwiseConv2d, SamePaddedConv2d} < kinds
    assert Conv2dSame not in kinds
