import copy

import pytest
import torch
from torch import nn

from models import create_model
from models.channels.groups import find_groups
from models.pruning import prune
from trainables.data import create_dataset
from trainables.pipeline_config import SensitivityConfig
from trainables.sensitivity import Outcome, _Judge, scan_briefly, scan_sensitivity


@pytest.fixture(scope="module")
def dataset():
    return create_dataset("synthetic", size=(64, 96), num_samples=6)


@pytest.fixture
def model(dataset):
    torch.manual_seed(0)
    return create_model(
        "dual_branch", dataset.num_classes, backbone="tu-resnet18", width=0.125
    ).eval()


def test_a_scan_agrees_with_pruning(model, dataset, context):
    settings = {"num_images": 2, "ratios": (0.5,), "precision": "float32"}
    scan = scan_sensitivity(model, dataset, context, joint_ratios=(0.1, 0.3), **settings)
    prune(model, torch.zeros(1, 3, 64, 96), 0.3)
    pruned = scan_sensitivity(model, dataset, context, joint_ratios=(0.1,), **settings)
    assert pruned.miou == pytest.approx(scan.joint_mious[1], abs=1e-4)
    assert pruned.loss != scan.loss


def test_the_network_and_its_groups_are_as_they_were(model, dataset, context):
    before = copy.deepcopy(model.state_dict())
    scan = scan_sensitivity(
        model, dataset, context, num_images=1, ratios=(0.5,), joint_ratios=(0.5,)
    )
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    groups = find_groups(model, torch.zeros(1, 3, 64, 96), "bn_scale").groups
    assert [(g.name, g.size) for g in scan.groups] == [(g.name, len(g.units)) for g in groups]
    assert scan.num_images == 1


def test_a_network_that_breaks_at_once_is_warned_of(model, dataset, context, monkeypatch):
    outcomes = iter([(1.0, 0.6)])
    monkeypatch.setattr(
        "trainables.sensitivity._Judge.__call__",
        lambda judge, network: Outcome(*next(outcomes, (3.0, 0.1))),
    )
    scan = scan_sensitivity(
        model, dataset, context, num_images=1, ratios=(0.1,), joint_ratios=(0.05,)
    )
    first, second = scan.warnings
    assert "its mIoU falls from 60.0% to 10.0%" in first
    assert "--space.importance taylor --space.scope global" in first
    assert "(60.0% to 10.0% without" in second


def test_a_sturdy_network_is_not_warned_of(model, dataset, context):
    for layer in model.modules():  # the least important channels are silent as it is
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data[: len(layer.weight) // 4] = 0.0
            layer.bias.data[: len(layer.bias) // 4] = 0.0
    scan = scan_sensitivity(
        model, dataset, context, num_images=1, ratios=(0.1,), joint_ratios=(0.05,)
    )
    assert scan.warnings == ()


def test_a_scan_ends_when_its_time_is_over(model, dataset, context):
    settings = {"num_images": 1, "ratios": (0.1,), "joint_ratios": (0.05,)}
    scan = scan_sensitivity(model, dataset, context, max_seconds=0.0, **settings)
    assert scan.groups == ()
    assert len(scan.joint_mious) == 1


def test_a_brief_scan_says_what_the_network_bears(model, dataset, context, monkeypatch, caplog):
    outcomes = iter([(1.0, 0.6)])
    monkeypatch.setattr(
        "trainables.sensitivity._Judge.__call__",
        lambda judge, network: Outcome(*next(outcomes, (3.0, 0.1))),
    )
    found = scan_briefly(model, dataset, context, SensitivityConfig())
    assert found["findings"]["sensitivity"] == (
        "without the 5% of each layer's channels with the smallest BatchNorm scales the network "
        "has 10.0% mIoU instead of 60.0% (4 training images, before any fine-tuning)"
    )
    assert found["warnings"]
    assert [record.getMessage() for record in caplog.records] == found["warnings"]


def test_a_network_that_cannot_be_scanned_is_named_in_a_warning(dataset, context):
    found = scan_briefly(Unfollowable(), dataset, context, SensitivityConfig())
    assert found["findings"] == {}
    (warning,) = found["warnings"]
    assert warning.startswith("what the network bears could not be measured: ")


class Unfollowable(nn.Module):
    """Not a network that can be traced."""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_images": 0}, "num_images must be at least 1, got 0"),
        ({"ratios": ()}, r"ratios must be ascending in 0\.\.1 .*got \(\)"),
        ({"ratios": (0.5, 0.2)}, r"got \(0\.5, 0\.2\)"),
        ({"joint_ratios": (0.5, 1.0)}, r"joint_ratios .*got \(0\.5, 1\.0\)"),
    ],
)
def test_bad_values_are_named(model, dataset, context, settings, message):
    with pytest.raises(ValueError, match=message):
        scan_sensitivity(model, dataset, context, **settings)


def test_the_images_are_spread_over_the_data_set(context):
    class Numbers:
        def __init__(self):
            self.read = []

        def __len__(self):
            return 7

        def __getitem__(self, index):
            self.read.append(index)

    images = Numbers()
    _Judge(images, context, 4, "auto")
    assert images.read == [0, 1, 3, 5]
