import importlib

import pytest
import torch

from trainables.learning.training import Batch
from trainables.losses import cross_entropy, kd_loss


@pytest.fixture
def designs():
    return importlib.import_module("trial_designs")


@pytest.fixture
def networks(designs):
    rows = [
        ("a", 0.2, "local", 0.3),
        ("b", 0.4, "local", 0.25),
        ("c", 0.4, "local", 0.28),
        ("d", 0.5, "global", 0.2),
        ("e", 0.6, "local", 0.1),
    ]
    return [
        designs.Network(key, ratio, scope, 1, {"miou": miou}) for key, ratio, scope, miou in rows
    ]


@pytest.mark.parametrize(
    ("limit", "scope", "expected"),
    [(0.5, "local", "c"), (0.6, "local", "c"), (0.6, None, "d"), (0.65, "local", "e")],
)
def test_the_best_of_the_nearest_ratio_is_continued(designs, networks, limit, scope, expected):
    assert designs.choose_parent(networks, limit, scope).key == expected


def test_nothing_below_means_no_parent(designs, networks):
    assert designs.choose_parent(networks, 0.2, "local") is None
    assert designs.choose_parent(networks, 0.5, "global") is None


def test_a_training_is_charged_once_and_never_beyond_the_budget(designs, networks):
    ledger = designs.Ledger(100)
    ledger.pay("a", 60)
    ledger.pay("a", 60)
    ledger.add(networks[0])
    assert ledger.events == [(60, {"miou": 0.3})]
    with pytest.raises(designs.BudgetSpent):
        ledger.pay("b", 41)
    ledger.pay("b", 40)
    assert ledger.steps == 100


def test_the_teacher_weighs_as_said(designs):
    torch.manual_seed(0)
    logits, target = torch.randn(1, 3, 8, 8), torch.randint(0, 3, (1, 8, 8))
    taught = torch.randn(1, 3, 8, 8)
    batch = Batch(torch.zeros(1, 3, 8, 8), target, taught.half())
    labels = cross_entropy(logits, target)
    assert torch.equal(designs.Distillation().compute_loss(logits, batch), labels)
    found = designs.Distillation("kd", temperature=2.0, alpha=0.25).compute_loss(logits, batch)
    expected = 0.25 * kd_loss(logits, taught.half().float(), 2.0, target) + 0.75 * labels
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
