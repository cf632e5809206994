import pytest
import torch
from torch import nn

from trainables.learning.training import TrainConfig, train
from trainables.learning.weight_average import WeightAverage


class SmallNetwork(nn.Module):
    """A convolution that gives classes, with BatchNorm."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 19, 3, padding=1)
        self.norm = nn.BatchNorm2d(19)

    def forward(self, images):
        return self.norm(self.stem(images))


@pytest.fixture
def make_small_network():
    def make():
        torch.manual_seed(0)
        return SmallNetwork()

    return make


def make_layer(value):
    layer = nn.BatchNorm1d(2)
    nn.init.constant_(layer.weight, value)
    return layer


def test_the_average_follows_its_formula():
    layer = make_layer(0.0)
    average = WeightAverage(layer, horizon=4)
    expected, values = 0.0, (1.0, 3.0, -2.0)
    for step, value in enumerate(values, start=1):
        nn.init.constant_(layer.weight, value)
        average.update(step)
        decay = min(0.75, step / (step + 9))
        expected = decay * expected + (1 - decay) * value
    average.write_into_model()
    torch.testing.assert_close(layer.weight, torch.full((2,), expected))


def test_late_updates_decay_by_the_horizon():
    layer = make_layer(1.0)
    average = WeightAverage(layer, horizon=4)
    nn.init.constant_(layer.weight, 2.0)
    average.update(1000)
    assert torch.equal(average.tensors["weight"], torch.full((2,), 1.25))


def test_counters_are_left_alone():
    layer = make_layer(1.0)
    average = WeightAverage(layer, horizon=4)
    layer(torch.randn(3, 2))
    average.update(1)
    average.write_into_model()
    assert layer.num_batches_tracked == 1
    assert "num_batches_tracked" not in average.tensors


def test_bad_values_are_named():
    with pytest.raises(ValueError, match=r"at least 1 update, got 0\.5"):
        WeightAverage(make_layer(1.0), horizon=0.5)
    average = WeightAverage(make_layer(1.0), horizon=4)
    with pytest.raises(ValueError, match="running_var"):
        average.restore({name: t for name, t in average.tensors.items() if name != "running_var"})


def test_a_training_ends_with_the_average_of_its_steps(
    small_stream, make_small_network, context, tmp_path
):
    weights = []

    class Recording(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            weights.append(model.state_dict()["stem.weight"].clone())

    model = make_small_network()
    first = model.state_dict()["stem.weight"].clone()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainables.learning.optimization.torch.optim.SGD", Recording)
        config = TrainConfig(num_steps=4, batch_size=2, average_share=0.5)
        train(model, small_stream, config, name="x", state_path=tmp_path / "s", context=context)
    expected = first
    for step, latest in enumerate(weights, start=1):
        decay = min(0.5, step / (step + 9))
        expected = decay * expected + (1 - decay) * latest
    torch.testing.assert_close(model.state_dict()["stem.weight"], expected)
    assert not torch.equal(expected, weights[-1])


def test_a_paused_training_is_evaluated_with_the_average_and_goes_on_from_its_own_weights(
    small_stream, make_small_network, context, tmp_path
):
    config = TrainConfig(num_steps=4, batch_size=2, average_share=0.5)
    options = {"name": "x", "state_path": tmp_path / "s", "context": context}
    whole = make_small_network()
    train(whole, small_stream, config, **{**options, "state_path": tmp_path / "other"})
    paused = make_small_network()
    train(paused, small_stream, config, **options, pause_after=2)
    middle = {name: tensor.clone() for name, tensor in paused.state_dict().items()}
    train(paused, small_stream, config, **options)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, paused.state_dict()[name]), name
    assert not torch.equal(middle["stem.weight"], whole.state_dict()["stem.weight"])
