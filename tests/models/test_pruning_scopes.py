"""Scopes and importances that look at more than the weights."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn

from models import create_model
from models.channels.groups import find_groups
from models.channels.sensitivity import GroupSensitivity, Sensitivity, count_by_sensitivity
from models.channels.widths import get_resizable_layers
from models.cost import count_cost
from models.pruning import prune

SIZE = (3, 64, 96)
IMAGE = torch.zeros(1, *SIZE)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("dual_branch", 5, backbone="tu-resnet18", width=0.125)


def find(model):
    return find_groups(copy.deepcopy(model).eval(), IMAGE, "bn_scale").groups


@pytest.fixture
def scan(model):
    """Later groups cost more."""
    groups = tuple(
        GroupSensitivity(
            name=group.name, size=len(group.units), macs=100, ratios=(0.5, 0.9),
            losses=(1 + 0.1 * number, 1 + 0.3 * number), mious=(0.5, 0.4),
        )
        for number, group in enumerate(find(model))
    )  # fmt: skip
    return Sensitivity(loss=1.0, miou=0.6, num_images=1, groups=groups, joint_ratios=(0.1,),
                       joint_mious=(0.5,), seconds=0.1, warnings=())  # fmt: skip


def test_sensitivity_says_how_many_each_group_keeps(model, scan):
    record = prune(model, IMAGE, 0.3, "sensitivity", sensitivity=scan)
    assert record.scope == "sensitivity"
    assert [len(group.units) for group in find(model)] == count_by_sensitivity(scan, 0.3)


def test_a_scan_of_the_unpruned_network_serves_its_continuation(model, scan):
    once = copy.deepcopy(model)
    prune(once, IMAGE, 0.5, "sensitivity", sensitivity=scan)
    prune(model, IMAGE, 0.2, "sensitivity", sensitivity=scan)
    prune(model, IMAGE, 0.5, "sensitivity", sensitivity=scan)
    assert [len(group.units) for group in find(model)] == [len(group.units) for group in find(once)]


def test_a_scan_of_another_network_is_refused(model, scan):
    other = replace(scan, groups=scan.groups[1:])
    with pytest.raises(ValueError, match=f"another network.*{scan.groups[0].name}"):
        prune(model, IMAGE, 0.3, "sensitivity", sensitivity=other)


@pytest.mark.parametrize("scope", ["local", "sensitivity"])
def test_scan_and_scope_go_together(model, scan, scope):
    given = scan if scope == "local" else None
    with pytest.raises(ValueError, match=f"got scope '{scope}' and {'a' if given else 'no'} scan"):
        prune(model, IMAGE, 0.3, scope, sensitivity=given)


def test_weighing_by_macs_removes_channels_that_cost_much_arithmetic(model):
    before = count_cost(model, SIZE)
    left = {}
    for scope in ("global", "global_macs"):
        pruned = copy.deepcopy(model)
        prune(pruned, IMAGE, 0.4, scope)
        after = count_cost(pruned, SIZE)
        left[scope] = after.macs / before.macs, after.num_params / before.num_params
    assert left["global_macs"][0] < 0.7
    # Its channels of coarse maps, which have most of the parameters, stay.
    assert left["global_macs"][1] > left["global"][1] + 0.1


@pytest.mark.parametrize("scope", ["local", "global"])
def test_measured_scores_choose_the_channels(model, scope):
    """The highest scores stay, whatever the BatchNorms say."""
    torch.manual_seed(1)
    measured = {
        name: torch.rand(layer.num_features)
        for name, layer in get_resizable_layers(model).items()
        if isinstance(layer, nn.BatchNorm2d)
    }
    groups = find(model)
    record = prune(model, IMAGE, 0.5, scope, importance="taylor", measured=measured)
    checked = 0
    for group in groups:
        # What a unit's channels score together, and whether the first of them was kept.
        sums = [
            sum(
                float(measured[m.layer][m.channel])
                for m in unit
                if m.is_output and m.layer in measured
            )
            for unit in group.units
        ]
        first = [next(m for m in unit if m.is_output) for unit in group.units]
        stays = [
            m.layer not in record.layers or m.channel in record.layers[m.layer].outputs
            for m in first
        ]
        if all(sums) and not all(stays):
            kept = [value for value, stay in zip(sums, stays, strict=True) if stay]
            lost = [value for value, stay in zip(sums, stays, strict=True) if not stay]
            assert min(kept) >= max(lost)
            checked += 1
    assert checked > 5


def test_measured_scores_are_needed_and_must_fit(model):
    with pytest.raises(ValueError, match="'taylor' needs scores"):
        prune(model, IMAGE, 0.3, importance="taylor")
    with pytest.raises(ValueError, match=r"belong to another network: nowhere has None"):
        prune(model, IMAGE, 0.3, importance="taylor", measured={"nowhere": torch.ones(3)})
