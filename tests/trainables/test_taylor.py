import copy

import pytest
import torch
from torch import nn

from models import create_model
from models.pruning import prune
from trainables.data import normalize
from trainables.learning.taylor import score_by_taylor
from trainables.losses import cross_entropy
from trainables.sensitivity import scan_sensitivity


@pytest.fixture
def model():
    torch.manual_seed(0)
    return create_model("fast_scnn", 19)


def test_scores_are_mean_squares_of_what_gradients_say(small_stream, context, model):
    before = copy.deepcopy(model.state_dict())
    scores = score_by_taylor(
        model, small_stream, context, num_batches=2, batch_size=2, precision="float32"
    )
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    name, norm = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))
    squares = []
    model.eval()
    for pair in ((0, 1), (2, 3)):
        samples = [small_stream[position] for position in pair]
        images = normalize(torch.stack([sample.image for sample in samples]))
        target = torch.stack([sample.target for sample in samples])
        loss = cross_entropy(model(images), target)
        gradients = torch.autograd.grad(loss, [norm.weight, norm.bias])
        squares.append((norm.weight * gradients[0] + norm.bias * gradients[1]).detach() ** 2)
    expected = torch.stack(squares).mean(dim=0).sqrt()
    torch.testing.assert_close(scores[name], expected, rtol=1e-3, atol=1e-7)


def test_a_channel_that_does_nothing_scores_nothing(small_stream, context, model):
    name, norm = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))
    with torch.no_grad():
        norm.weight[2] = norm.bias[2] = 0.0
    scores = score_by_taylor(model, small_stream, context, num_batches=1, batch_size=2)
    assert scores[name][2] == 0
    assert (scores[name][:2] > 0).any()


def test_a_score_predicts_the_loss_without_the_channel(small_stream, context):
    """One linear layer, where the first order is nearly all."""
    torch.manual_seed(1)
    model = nn.Conv2d(3, 19, 1)
    with torch.no_grad():
        model.weight.mul_(0.02)
        model.bias.zero_()
    scores = score_by_taylor(
        model, small_stream, context, num_batches=1, batch_size=2, precision="float32"
    )[""]
    samples = [small_stream[position] for position in (0, 1)]
    images = normalize(torch.stack([sample.image for sample in samples]))
    target = torch.stack([sample.target for sample in samples])
    with torch.no_grad():
        whole = cross_entropy(model(images), target)
        for channel in range(3):
            cut = copy.deepcopy(model)
            cut.weight[channel] = 0.0
            change = float((cross_entropy(cut(images), target) - whole).abs())
            assert float(scores[channel]) == pytest.approx(change, rel=0.1, abs=1e-6)


@pytest.mark.parametrize("field", ["num_batches", "batch_size"])
def test_bad_values_are_named(small_stream, context, model, field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, got 0"):
        score_by_taylor(model, small_stream, context, **{field: 0})


def test_a_narrow_strided_convolution_is_scored_without_channels_last(small_stream, context):
    """Its gradient would corrupt memory there; see `breaks_in_channels_last`."""
    strides = []

    class Narrow(nn.Module):
        def __init__(self):
            super().__init__()
            self.strided = nn.Conv2d(3, 19, 1, stride=2)

        def forward(self, images):
            strides.append(images.stride())
            logits = self.strided(images)
            return nn.functional.interpolate(logits, size=images.shape[-2:])

    score_by_taylor(Narrow(), small_stream, context, num_batches=1, batch_size=2)
    assert all(row > column > 0 and channel > row for _, channel, row, column in strides)


@pytest.mark.parametrize("name", ["deeplabv3plus", "fast_scnn"])
def test_no_layer_stays_whole_after_scoring_in_channels_last(small_stream, context, name, caplog):
    """Scoring leaves the network in channels_last, where a pooling cannot be traced."""
    kwargs = {"backbone": "resnet18", "decoder_channels": 32} if name == "deeplabv3plus" else {}
    model = create_model(name, 19, **kwargs)
    scores = score_by_taylor(model, small_stream, context, num_batches=1, batch_size=2)
    scan = scan_sensitivity(model, small_stream.dataset, context, num_images=1, ratios=(0.5,))
    for scope in ("global", "sensitivity"):
        given = {"sensitivity": scan} if scope == "sensitivity" else {}
        record = prune(
            copy.deepcopy(model).cpu(), torch.zeros(1, 3, 240, 320), 0.5, scope,
            importance="taylor", measured=scores, **given,
        )  # fmt: skip
        assert not record.unprunable
    assert "left whole" not in caplog.text
