import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from models import create_model
from trainables.context import StageContext
from trainables.data import AugmentationConfig, TrainingStream, create_dataset
from trainables.learning.optimization import OptimizerConfig
from trainables.learning.training import TrainConfig, TrainingDiverged, train
from trainables.learning.training_state import (
    TrainingStateError,
    load_training_state,
    save_training_state,
)
from trainables.losses import cross_entropy


class Killed(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def stream():
    dataset = create_dataset("synthetic", size=(64, 96), num_samples=6)
    return TrainingStream(dataset, AugmentationConfig(crop_size=(64, 64)), seed=3)


def build(name="dual_branch"):
    torch.manual_seed(0)
    if name == "deeplabv3plus":  # has dropout
        return create_model("deeplabv3plus", backbone="tu-mobilenetv3_small_050")
    return create_model("dual_branch", backbone="tu-resnet18", width=0.125, auxiliary=True)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("network", ["dual_branch", "deeplabv3plus"])
@pytest.mark.parametrize(("killed_after", "average_share"), [(1, 0.0), (2, 0.5), (4, 1.0)])
def test_an_interrupted_training_ends_as_an_uninterrupted_one(
    tmp_path, stream, context, optimizer, network, killed_after, average_share
):
    config = TrainConfig(
        num_steps=5,
        batch_size=2,
        optimizer=OptimizerConfig(name=optimizer),
        average_share=average_share,
    )
    path = tmp_path / "state.safetensors"
    whole = build(network)
    curve = train(whole, stream, config, name="dense", state_path=path, context=context).losses
    assert not path.exists()

    def kill(progress):
        if progress.step == killed_after + 1:
            raise Killed

    broken = replace(context, checkpoint_seconds=0.0, report=kill)
    with pytest.raises(Killed):
        train(build(network), stream, config, name="dense", state_path=path, context=broken)
    resumed = build(network)
    again = train(resumed, stream, config, name="dense", state_path=path, context=context).losses
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert again == curve


@pytest.mark.parametrize(("seconds_before", "is_saved"), [(100.0, True), (0.0, False)])
def test_what_came_before_the_first_step_counts_towards_the_first_state(
    tmp_path, stream, context, seconds_before, is_saved
):
    path = tmp_path / "state.safetensors"

    def look(progress):
        assert path.exists() == is_saved
        raise Killed

    began = time.monotonic() - seconds_before
    context = replace(context, checkpoint_seconds=60.0, began=began, report=look)
    config = TrainConfig(num_steps=5, batch_size=2)
    with pytest.raises(Killed):
        train(build(), stream, config, name="dense", state_path=path, context=context)


def test_training_learns(stream, context, tmp_path):
    config = TrainConfig(num_steps=30, batch_size=2, optimizer=OptimizerConfig(lr=0.02))
    result = train(
        build(), stream, config, name="dense", state_path=tmp_path / "s", context=context
    )
    losses = [loss for _, loss in result.losses]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_a_loss_that_is_no_number_ends_the_training(stream, context, tmp_path):
    def diverge(logits, batch):
        return logits.sum() * torch.nan

    with pytest.raises(TrainingDiverged, match="sparse: the loss is nan at step 0 of 5"):
        train(
            build(), stream, TrainConfig(num_steps=5, batch_size=2), name="sparse",
            state_path=tmp_path / "s", context=context, compute_loss=diverge,
        )  # fmt: skip


def test_a_damaged_state_is_named(stream, context, tmp_path):
    path = tmp_path / "state.safetensors"
    path.write_bytes(b"not a state")
    with pytest.raises(TrainingStateError, match=r"state\.safetensors"):
        train(
            build(), stream, TrainConfig(num_steps=2, batch_size=2), name="dense",
            state_path=path, context=context,
        )  # fmt: skip


def test_a_state_that_cannot_be_read_is_not_called_damaged(tmp_path):
    model = build()
    with pytest.raises(IsADirectoryError):
        load_training_state(tmp_path, model, torch.optim.SGD(model.parameters()))


def test_a_state_holds_weights_that_have_two_names(tmp_path):
    def build_tied():
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[1].weight = model[0].weight
        return model, torch.optim.SGD(model.parameters())

    (model, optimizer), (resumed, other) = build_tied(), build_tied()
    path = tmp_path / "state.safetensors"
    save_training_state(path, model, optimizer, {"step": 3})
    assert load_training_state(path, resumed, other) == {"step": 3}
    assert resumed[1].weight is resumed[0].weight
    assert torch.equal(resumed[0].weight, model[0].weight)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # 1 core
def test_workers_do_not_change_the_result(stream, context: StageContext, tmp_path):
    config = TrainConfig(num_steps=2, batch_size=2)
    weights = []
    for num_workers in (0, 2):
        model = build()
        somewhere = tmp_path / str(num_workers)
        workers = replace(context, num_workers=num_workers)
        train(model, stream, config, name="dense", state_path=somewhere, context=workers)
        weights.append(model.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


@pytest.mark.parametrize("num_channels", [2, 5, 7])
def test_narrow_strided_shortcuts_do_not_corrupt_the_heap(tmp_path, context, num_channels):
    """glibc aborts the process here if training uses channels_last for this layer."""

    class Narrow(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, num_channels, 3, padding=1)
            self.shortcut = torch.nn.Conv2d(num_channels, 19, 1, stride=2)

        def forward(self, images):
            return torch.nn.functional.interpolate(self.shortcut(self.stem(images)), scale_factor=2)

    dataset = create_dataset("synthetic", size=(64, 96), num_samples=6)
    stream = TrainingStream(dataset, AugmentationConfig(crop_size=(64, 64)), seed=0)
    config = TrainConfig(num_steps=30, batch_size=2)
    train(
        Narrow(), stream, config, name="dense", state_path=tmp_path / "s",
        context=replace(context, num_threads=1),
    )  # fmt: skip


@pytest.mark.parametrize(("field", "value"), [("num_steps", 0), ("batch_size", 1)])
def test_bad_values_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must be at least .*got {value}"):
        TrainConfig(**{field: value})


@pytest.mark.parametrize("killed_after", [1, 3])
def test_what_is_trained_beside_the_network_goes_on_where_it_was(
    tmp_path, stream, context, killed_after
):
    config = TrainConfig(num_steps=5, batch_size=2, optimizer=OptimizerConfig(name="adamw"))

    def learn(folder, context):
        torch.manual_seed(1)
        model, scale = build(), nn.Conv2d(19, 19, 1)
        train(
            model, stream, config, name="distilled", state_path=folder / "s", context=context,
            compute_loss=lambda logits, batch: cross_entropy(scale(logits), batch.target),
            beside=scale,
        )  # fmt: skip
        return {**model.state_dict(), **{f"scale.{k}": v for k, v in scale.state_dict().items()}}

    def kill(progress):
        if progress.step == killed_after + 1:
            raise Killed

    (tmp_path / "whole").mkdir()
    whole = learn(tmp_path / "whole", context)
    torch.manual_seed(1)
    build()
    assert not torch.equal(whole["scale.weight"], nn.Conv2d(19, 19, 1).weight)
    with pytest.raises(Killed):
        learn(tmp_path, replace(context, checkpoint_seconds=0.0, report=kill))
    resumed = learn(tmp_path, context)
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key
