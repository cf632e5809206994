"""Pruning: the pruned network is the masked one, smaller, and can be made again."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor, nn

from models import MODELS, SegmentationNetwork, create_model, pruning
from models.channels.masking import mask_channels
from models.channels.selection import count_globally, count_locally, find_lowest, round_width
from models.pruning import PruningError, PruningRecord, prune, replay
from models.structure import describe_structure

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "resnet50c": ("dual_branch", {"backbone": "tu-resnet50c", "width": 0.25, "auxiliary": True}),
    "resnet18": ("dual_branch", {"backbone": "resnet18", "width": 0.25}),
    "mobilenet_v2": ("dual_branch", {"backbone": "mobilenet_v2", "width": 0.25}),
    "lite0": ("dual_branch", {"backbone": "tu-tf_efficientnet_lite0", "width": 0.25}),
    "regnet": ("dual_branch", {"backbone": "tu-regnetx_002", "width": 0.25}),
    "deeplabv3plus": ("deeplabv3plus", {"backbone": "mobilenet_v2"}),
    "lraspp": ("lraspp_mobilenet_v3_large", {}),
}
# Every other network as it is; the largest stand for themselves in a smaller relative.
NETWORKS |= {
    name: (name, {})
    for name in MODELS
    if name not in {*(name for name, _ in NETWORKS.values()), "pspnet_resnet101"}
}
IMAGE = torch.zeros(1, 3, 64, 96)


def make(key: str) -> SegmentationNetwork:
    """A network whose every channel matters: nothing is zero, nothing is equal."""
    torch.manual_seed(3)
    name, kwargs = NETWORKS[key]
    model = create_model(name, num_classes=5, **kwargs)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.2, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.2)
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
    return model


def small() -> SegmentationNetwork:
    torch.manual_seed(3)
    return create_model("dual_branch", num_classes=5, backbone="tu-resnet18d", width=0.25)


def evaluate(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return model.eval()(images)


@pytest.mark.parametrize("key", NETWORKS)
@pytest.mark.parametrize(
    ("pruning_ratio", "scope", "round_to"),
    [(0.2, "local", 8), (0.5, "local", None), (0.5, "global", 8), (0.7, "global", None)],
)
def test_pruned_equals_masked(key: str, pruning_ratio: float, scope: Any, round_to: int | None):
    model = make(key)
    masked, fresh = copy.deepcopy(model), copy.deepcopy(model)
    record = prune(model, IMAGE, pruning_ratio, scope, round_to)

    images = torch.randn(1, 3, 65, 97).double()  # rounding moves none of the maxima to unpool
    mask_channels(masked, record.layers)
    expected = evaluate(masked.double(), images)
    found = evaluate(copy.deepcopy(model).double(), images)
    scale = expected.abs().max()
    assert expected.std() > 1e-3 * scale
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-9)

    kept = record.num_params_after / record.num_params_before
    assert kept == sum(p.numel() for p in model.parameters()) / record.num_params_before
    assert abs(kept - (1 - pruning_ratio) ** 2) < 0.12 or round_to == 8

    replay(fresh, PruningRecord.from_json(record.to_json()))
    assert describe_structure(fresh) == describe_structure(model)
    for (name, tensor), other in zip(
        fresh.state_dict().items(), model.state_dict().values(), strict=True
    ):
        assert torch.equal(tensor, other), name


def test_a_pruned_network_trains():
    model = small()
    prune(model.train(), IMAGE, 0.5)
    assert model.training
    model(torch.randn(2, 3, 64, 64)).square().mean().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in model.parameters())


def test_round_to_makes_multiples():
    model = create_model("dual_branch", num_classes=5, backbone="resnet18", width=0.5)
    prune(model, IMAGE, 0.3, round_to=8)
    for name, width in describe_structure(model).widths.items():
        if not name.startswith("classifier"):
            assert width[-2 if len(width) == 3 else -1] % 8 == 0, name


@pytest.mark.parametrize("scope", ["local", "global"])
def test_pruned_step_by_step_a_network_gets_the_widths_of_its_ratio(scope: Any):
    original = small()
    at_once, in_steps = copy.deepcopy(original), copy.deepcopy(original)
    prune(at_once, IMAGE, 0.5, scope, round_to=8)
    prune(in_steps, IMAGE, 0.2, scope, round_to=8)
    for ratio in (0.3, 0.4, 0.5):
        prune(in_steps, IMAGE, ratio, scope, round_to=8, original=original)
    if scope == "local":
        assert describe_structure(in_steps).widths == describe_structure(at_once).widths
    left = [sum(p.numel() for p in model.parameters()) for model in (in_steps, at_once)]
    assert left[0] == pytest.approx(left[1], rel=0.05)  # where to prune, global scope decides anew


def test_classes_stay():
    model = make("lraspp")
    prune(model, IMAGE, 0.7)
    assert all(layer.out_channels == 5 for layer in model.get_output_layers())


def test_groups_without_batchnorm_are_pruned_too():
    model = make("lraspp")
    record = prune(model, IMAGE, 0.5)
    squeezes = [name for name in record.layers if name.endswith("fc1")]
    assert len(squeezes) == 8
    removed = model.get_submodule(squeezes[0])
    assert removed.out_channels == len(record.layers[squeezes[0]].outputs)


@pytest.mark.parametrize("scope", ["local", "global"])
def test_no_part_of_a_concatenation_vanishes(scope: Any):
    model = create_model(
        "deeplabv3plus", num_classes=5, backbone="mobilenet_v2", decoder_channels=32
    )
    with torch.no_grad():
        model.network.decoder.aspp[2].weight.mul_(1e-3)
    prune(model, IMAGE, 0.5, scope)
    assert model.network.decoder.aspp[2].num_features == (16 if scope == "local" else 2)


def test_the_smallest_scales_go():
    model = small()
    first = model.detail[0][1]
    assert first.num_features == 8
    with torch.no_grad():
        first.weight.copy_(torch.tensor([8.0, -1, 7, 2, 6, -3, 5, 4]))
    record = prune(model, IMAGE, 0.5)
    assert record.layers["detail.0.1"].outputs == (0, 2, 4, 6)
    assert record.layers["detail.1.0"].inputs == (0, 2, 4, 6)


def test_untrained_networks_narrow_evenly_under_global_scope():
    model = create_model("deeplabv3plus", num_classes=5, backbone="resnet18")
    record = prune(model, IMAGE, 0.5, scope="global")
    assert record.num_params_after / record.num_params_before == pytest.approx(0.25, abs=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pruning_ratio": 0.0}, r"pruning_ratio must be in \(0, 1\), got 0.0"),
        ({"pruning_ratio": 1.0}, "pruning_ratio"),
        ({"scope": "layer"}, r"scope must be one of .*'local', 'global'.*'layer'"),
        ({"round_to": 0}, "round_to"),
        ({"importance": "random"}, "importance must be one of"),
        ({"example_input": torch.zeros(3, 64, 64)}, "example_input must be"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        prune(small(), **{"example_input": IMAGE, **arguments})


def test_nothing_to_remove_is_an_error():
    with pytest.raises(PruningError, match=r"no channel could be removed.*detail"):
        prune(small(), IMAGE, 0.01, round_to=64)


class Averages(nn.Module):
    """Adds the sum over the channels divided by their number, which no trace can see."""

    def forward(self, x: Tensor) -> Tensor:
        return x + x.sum(dim=1, keepdim=True) / x.shape[1]


def test_layers_that_would_be_pruned_wrongly_are_named_and_left_whole():
    model = small()
    model.detail[1] = nn.Sequential(*model.detail[1], Averages())
    record = prune(model, IMAGE, 0.5)
    assert "differs from the masked one" in record.unprunable["detail.1.0"]
    assert model.detail[1][0].out_channels == 8
    assert model.detail[0][0].out_channels == 4
    assert record.num_params_after < 0.35 * record.num_params_before


def test_a_record_for_another_network_is_refused():
    record = prune(small(), IMAGE, 0.5)
    with pytest.raises(ValueError, match="no layers"):
        replay(create_model("lraspp_mobilenet_v3_large"), record)
    pruned = small()
    replay(pruned, record)
    with pytest.raises(ValueError, match="has the channels"):
        replay(pruned, record)
    with pytest.raises(ValueError, match="not the record"):
        PruningRecord.from_json("[]")


def test_only_own_networks_are_taken():
    with pytest.raises(ValueError, match="SegmentationNetwork, got a Conv2d"):
        prune(nn.Conv2d(3, 3, 1), IMAGE)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pruning_ratio", "published_m"),
    [(0.2, 26.21), (0.3, 20.07), (0.4, 14.74), (0.5, 10.26), (0.6, 6.54), (0.7, 3.67)],
)
def test_dual_branch_reproduces_table_3(pruning_ratio: float, published_m: float):
    model = create_model("dual_branch")
    record = prune(model, IMAGE, pruning_ratio)
    assert record.num_params_after / 1e6 == pytest.approx(published_m, rel=0.005)


scores_of_groups = st.lists(
    st.lists(st.floats(0, 10), min_size=1, max_size=40).map(np.array), min_size=1, max_size=8
)
ratios = st.floats(0.01, 0.99)


@given(scores=scores_of_groups, ratio=ratios)
def test_global_counts_hold_their_promises(scores: list[np.ndarray], ratio: float):
    counts = count_globally(scores, ratio)
    sizes = [len(s) for s in scores]
    assert all(1 <= count <= size for count, size in zip(counts, sizes, strict=True))
    spared = sum(max(1, int(np.ceil(size * min(1 / 16, (1 - ratio) / 2)))) for size in sizes)
    assert sum(counts) == max(count_locally(sum(sizes), ratio), spared)
    # Whatever goes scores no more than anything that stays and that could have gone.
    gone = [np.sort(s)[: len(s) - c] for s, c in zip(scores, counts, strict=True)]
    highest_gone = max((g.max() for g in gone if len(g)), default=-1.0)
    for s, count in zip(scores, counts, strict=True):
        size = len(s)
        if count > max(1, int(np.ceil(size * min(1 / 16, (1 - ratio) / 2)))):
            assert np.sort(s)[size - count] >= highest_gone


def test_channels_that_save_much_are_removed_first():
    scores = [np.array([1.0, 2, 3, 4]), np.array([1.0, 2, 3, 4])]
    assert count_globally(scores, 0.5) == [2, 2]
    # The second group's channels cost 16 times as much, so their scores count a quarter: all of
    # them but one go before the first of the others.
    assert count_globally(scores, 0.7, [1, 16]) == [4, 1]
    assert count_globally(scores, 0.3, [100, 1]) == [2, 4]


@example(scores=[np.array([1.0, 5e-324]), np.zeros(2)], ratio=0.25)
@given(scores=scores_of_groups, ratio=ratios)
def test_equal_costs_change_nothing(scores: list[np.ndarray], ratio: float):
    assert count_globally(scores, ratio, [7] * len(scores)) == count_globally(scores, ratio)


@given(size=st.integers(1, 500), keep=st.integers(1, 500), round_to=st.integers(1, 32))
def test_rounded_widths(size: int, keep: int, round_to: int):
    keep = min(keep, size)
    width = round_width(keep, size, round_to)
    assert 1 <= width <= size
    assert width == size or width % round_to == 0
    assert round_width(keep, size, None) == keep
    if round_to <= keep and width != size:
        assert abs(width - keep) < round_to


@pytest.mark.parametrize(
    ("size", "ratio", "keep"), [(10, 0.7, 3), (10, 0.9, 1), (64, 0.5, 32), (3, 0.9, 1), (5, 0.2, 4)]
)
def test_local_counts_by_hand(size: int, ratio: float, keep: int):
    assert count_locally(size, ratio) == keep


def test_lowest_by_hand():
    assert find_lowest(np.array([3.0, 1, 2, 1]), 2) == [1, 3]
    assert find_lowest(np.array([1.0, 1, 1]), 1) == [0]
    assert set(pruning.IMPORTANCES) >= {"bn_scale", "group_l2"}


def test_importance_by_weights_ranks_what_it_says():
    model = small()
    first = model.detail[0][0]
    with torch.no_grad():
        first.weight.mul_(torch.tensor([8.0, 1, 7, 2, 6, 3, 5, 4])[:, None, None, None])
        for layer in (first, model.detail[0][1]):
            layer.weight.copy_(layer.weight.abs().sign() * layer.weight.abs().clamp_min(1e-3))
        norms = first.weight.flatten(1).norm(dim=1) + model.detail[0][1].weight.abs()
    record = prune(model, IMAGE, 0.5, importance="group_l2")
    kept = sorted(norms.topk(4).indices.tolist())
    assert list(record.layers["detail.0.0"].outputs) == kept
    assert record.importance == "group_l2"
