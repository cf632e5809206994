"""Cost against hand counts."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from models import create_model
from models.cost import count_cost


@pytest.mark.parametrize(
    ("layer", "num_params", "macs"),
    [
        (nn.Conv2d(3, 8, 3, padding=1), 3 * 8 * 9 + 8, 3 * 8 * 9 * 10 * 12),
        (nn.Conv2d(4, 6, 1, stride=2, bias=False), 4 * 6, 4 * 6 * 5 * 6),
        (nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), 8 * 9, 8 * 9 * 10 * 12),
        (nn.ConvTranspose2d(4, 2, 2, stride=2, bias=False), 4 * 2 * 4, 4 * 2 * 4 * 10 * 12),
        (nn.Linear(12, 5), 12 * 5 + 5, 12 * 5 * 4 * 10),
        (nn.BatchNorm2d(4), 8, 0),
        (nn.Upsample(scale_factor=2, mode="bilinear"), 0, 0),
    ],
)
def test_layers_by_hand(layer: nn.Module, num_params: int, macs: int):
    channels = getattr(layer, "in_channels", 4)
    cost = count_cost(layer, (channels, 10, 12))
    assert (cost.num_params, cost.macs) == (num_params, macs)


def test_dual_branch_at_full_size_without_running_it():
    model = create_model("dual_branch")
    start = time.perf_counter()
    cost = count_cost(model, (3, 1024, 2048))
    assert time.perf_counter() - start < 10  # a third of a second on an idle core
    assert cost.num_params == 40_964_715
    assert cost.macs == 493_751_369_728
    assert model.training
    assert not any(p.is_meta for p in model.parameters())


def test_lraspp_has_the_cost_that_torchvision_states():
    model = create_model("lraspp_mobilenet_v3_large", num_classes=21)
    cost = count_cost(model, (3, 520, 520))
    assert cost.num_params == 3_221_538
    assert cost.macs / 1e9 == pytest.approx(2.086, rel=0.01)


def test_auxiliary_heads_do_no_work():
    costs = [
        count_cost(
            create_model("dual_branch", backbone="tu-resnet18d", width=0.25, auxiliary=auxiliary),
            (3, 64, 64),
        )
        for auxiliary in (False, True)
    ]
    assert costs[0].macs == costs[1].macs
    assert costs[0].num_params < costs[1].num_params


class Mixed(nn.Module):
    """One of every kind that fvcore counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.up = nn.ConvTranspose2d(4, 6, 2, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.linear = nn.Linear(6 * 4, 5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.up(self.norm(self.conv(images)).relu())
        resized = nn.functional.interpolate(features, size=(9, 11), mode="bilinear")
        return self.linear(self.pool(resized).flatten(1))


def test_fvcore_agrees():
    analysis = pytest.importorskip("fvcore.nn").FlopCountAnalysis(
        Mixed().eval(), torch.zeros(1, 3, 16, 24)
    )
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert count_cost(Mixed(), (3, 16, 24), "fvcore").macs == analysis.total()


def test_dual_branch_has_the_published_cost_as_fvcore_counts():
    cost = count_cost(create_model("dual_branch"), (3, 1024, 2048), "fvcore")
    assert cost.macs / 1e9 == pytest.approx(496.6, abs=0.05)


class Placed(nn.Module):
    """Makes a tensor without saying on which device."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 1, bias=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        columns = torch.linspace(-1, 1, images.shape[-1]).expand_as(images[:, :1])
        return self.conv(torch.cat((images, columns), dim=1))


class Deciding(Placed):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images if images.max() < 9 else images / images.max())


class Remembering(Placed):
    """Holds a tensor that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.tensor([1.0, 2.0, 3.0]).view(1, 3, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(self.scale * images)


@pytest.mark.parametrize("kind", [Placed, Deciding, Remembering])
def test_what_cannot_run_without_values_is_counted_too(kind: type[Placed]):
    assert count_cost(kind(), (3, 10, 12)).macs == 4 * 6 * 10 * 12


class Attending(nn.Module):
    """Attention over the pixels, in both of PyTorch's forms."""

    def __init__(self, reads: bool) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, bias=False, batch_first=True)
        self.reads = reads

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        pixels = images.flatten(2).transpose(1, 2)
        if self.reads and images.max() > 9:
            return images
        attended = nn.functional.scaled_dot_product_attention(pixels, pixels, pixels)
        return self.attention(attended, attended, attended, need_weights=False)[0]


@pytest.mark.parametrize("reads", [False, True])
def test_attention_is_counted_on_either_device(reads: bool):
    pixels = 5 * 6
    products = 2 * pixels * pixels * 4  # queries by keys, weights by values
    projections = 4 * pixels * 4 * 4
    assert count_cost(Attending(reads), (4, 5, 6)).macs == 2 * products + projections


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="convention must be 'macs' or 'fvcore', got 'flops'"):
        count_cost(nn.Identity(), (3, 64, 64), "flops")
    with pytest.raises(ValueError, match="input_shape must be"):
        count_cost(nn.Identity(), (64, 64))
    assert torch.is_grad_enabled()
