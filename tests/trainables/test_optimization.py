import pytest
import torch
from torch import nn

from models import create_model
from trainables.learning.optimization import OptimizerConfig, build_optimizer, set_learning_rate


def test_poly_by_hand():
    config = OptimizerConfig(lr=0.01, schedule="poly", poly_power=0.9, min_lr=1e-4)
    assert config.learning_rate(0, 100) == pytest.approx(0.01)
    assert config.learning_rate(50, 100) == pytest.approx(0.01 * 0.5**0.9)
    assert config.learning_rate(99, 100) == pytest.approx(0.01 * 0.01**0.9, rel=1e-6)
    assert config.learning_rate(9999, 10000) == 1e-4


def test_one_cycle_rises_and_falls():
    config = OptimizerConfig(lr=1.0, schedule="one_cycle", warmup_fraction=0.25)
    rates = [config.learning_rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1 / 25)
    assert max(rates) == rates[25] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(1e-4)
    assert rates[:26] == sorted(rates[:26])
    assert rates[25:] == sorted(rates[25:], reverse=True)


@pytest.mark.parametrize("schedule", ["poly", "one_cycle"])
@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_short_trainings_have_a_rate(schedule, num_steps):
    config = OptimizerConfig(schedule=schedule, warmup_fraction=0.3)
    assert all(config.learning_rate(step, num_steps) > 0 for step in range(num_steps))


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_weight_decay_spares_batchnorm_and_biases(name):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    decayed, spared = build_optimizer(model, OptimizerConfig(name=name)).param_groups
    assert [p.ndim for p in decayed["params"]] == [4]
    assert [p.ndim for p in spared["params"]] == [1, 1, 1]
    assert spared["weight_decay"] == 0


def test_the_backbone_learns_at_its_own_rate():
    model = create_model("dual_branch", num_classes=2, backbone="resnet18", width=0.25)
    optimizer = build_optimizer(model, OptimizerConfig(backbone_lr_factor=0.1))
    set_learning_rate(optimizer, 0.5)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == set(model.parameters())
    in_backbone = set(model.backbone.parameters())
    assert all(lr == (0.05 if p in in_backbone else 0.5) for p, lr in rates.items())


@pytest.mark.parametrize(
    ("field", "value"),
    [("lr", 0.0), ("backbone_lr_factor", 0.0), ("lr", float("nan")), ("weight_decay", -1.0),
     ("momentum", 1.0), ("warmup_fraction", 1.5), ("max_grad_norm", 0.0)],
)  # fmt: skip
def test_bad_values_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must .*{value}"):
        OptimizerConfig(**{field: value})


def test_torch_agrees_with_sgd_momentum():
    model = nn.Linear(1, 1, bias=False)
    optimizer = build_optimizer(model, OptimizerConfig(lr=0.1, weight_decay=0.0))
    start = model.weight.detach().clone()
    for _ in range(2):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
    assert (start - model.weight).item() == pytest.approx(0.1 + 0.1 * 1.9)
