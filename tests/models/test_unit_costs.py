"""What a unit of channels saves: the numbers of a network without it, however they are found."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from models import create_model, unit_costs
from models.channels.groups import ChannelGroup, find_groups, remove_units
from models.channels.record import replay
from models.cost import count_cost
from models.network import SegmentationNetwork
from models.unit_costs import count_saved_macs

SIZE = (64, 96)


def find(model: SegmentationNetwork) -> list[ChannelGroup]:
    return list(find_groups(model, torch.zeros(1, 3, *SIZE), "group_l2").groups)


def count_without(model: SegmentationNetwork, group: ChannelGroup) -> int:
    smaller = copy.deepcopy(model)
    replay(smaller, remove_units(model, [group.units[0]]))
    return count_cost(model, (3, *SIZE)).macs - count_cost(smaller, (3, *SIZE)).macs


@pytest.mark.parametrize(
    "name",
    [
        "erfnet",  # transposed convolutions
        "espnetv2",  # grouped and depthwise ones
        "lraspp_mobilenet_v3_large",  # depthwise ones and pooled branches
    ],
)
def test_the_numbers_are_those_of_the_network_without_the_unit(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = create_model(name, 5).eval()
    groups = find(model)
    counted: list[nn.Module] = []
    monkeypatch.setattr(
        unit_costs, "count_cost", lambda net, shape: counted.append(net) or count_cost(net, shape)
    )
    saved = list(count_saved_macs(model, groups, SIZE))
    assert len(counted) == 2  # the whole network, and once without a unit of every group
    for group, number in list(zip(groups, saved, strict=True))[::9]:
        assert number == (count_without(model, group) if len(group.units) > 1 else 0)
        assert number > 0 or len(group.units) == 1
    assert not any(layer._forward_hooks for layer in model.modules())


def test_a_network_that_needs_some_units_is_counted_anew() -> None:
    model = create_model("smp:Segformer", 5, encoder_name="mit_b0", encoder_weights=None).eval()
    groups = find(model)
    runs, stuck = groups[-1], groups[0]  # the heads of attention have a fixed width
    with pytest.raises(RuntimeError):
        count_without(model, stuck)
    saved = list(count_saved_macs(model, [stuck, runs], SIZE))
    assert saved == [0, count_without(model, runs)]
    assert saved[1] > 0


def test_a_unit_without_which_the_network_does_not_run_saves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = create_model("erfnet", 5).eval()
    groups = find(model)
    expected = list(count_saved_macs(model, groups, SIZE))
    stuck = remove_units(model, [groups[2].units[0]])

    def refuse(net: nn.Module, kept: Any) -> None:
        if stuck.keys() <= kept.keys():
            raise RuntimeError("this layer must keep its width")
        replay(net, kept)

    monkeypatch.setattr(unit_costs, "replay", refuse)
    saved = list(count_saved_macs(model, groups, SIZE))
    assert saved[2] == 0
    assert saved[:2] + saved[3:] == expected[:2] + expected[3:]


def test_a_layer_may_get_its_images_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    model = create_model("erfnet", 5).eval()
    groups = find(model)
    expected = list(count_saved_macs(model, groups, SIZE))
    call = nn.Conv2d.__call__
    monkeypatch.setattr(nn.Conv2d, "__call__", lambda layer, images: call(layer, input=images))
    assert list(count_saved_macs(model, groups, SIZE)) == expected
