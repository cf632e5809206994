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


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="convention must be 'macs' or 'fvcore', got 'flops'"):
        count_cost(nn.Identity(), (3, 64, 64), "flops")
    with pytest.raises(ValueError, match="input_shape must be"):
        count_cost(nn.Identity(), (64, 64))
    assert torch.is_grad_enabled()
