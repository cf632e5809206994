import pytest
import torch
from torch import nn

from trainables.data import normalize
from trainables.learning.batchnorm_statistics import reestimate_batchnorm


@pytest.mark.parametrize("first_size", [(64, 96), (32, 48)])
def test_statistics_are_the_averages_over_the_images_as_they_are(
    small_stream, context, monkeypatch, first_size
):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
    nn.init.constant_(model[0].running_mean, 100.0)
    weight = model[0].weight.clone()
    model.eval()
    dataset = small_stream.dataset
    sizes = [first_size, *[(64, 96)] * 5]  # the size of the first image does not cut the others
    monkeypatch.setattr(dataset, "sample_size", sizes.__getitem__)
    reestimate_batchnorm(model, dataset, context, num_batches=3, batch_size=2, precision="float32")
    # Three pairs are all six images, whatever their order; a flip changes no mean.
    images = normalize(torch.stack([sample.image for sample in dataset]))
    means = images.mean(dim=(0, 2, 3))
    torch.testing.assert_close(model[0].running_mean, means, rtol=1e-4, atol=1e-5)
    # The mean over pairs of the variance within: below that of all, above that within an image.
    within = images.var(dim=(2, 3)).mean(dim=0)
    assert (model[0].running_var <= images.var(dim=(0, 2, 3)) * 1.01).all()
    assert (model[0].running_var >= within * 0.99).all()
    assert not model.training
    assert model[0].momentum == 0.1
    assert torch.equal(model[0].weight, weight)


@pytest.mark.parametrize(("field", "value"), [("num_batches", 0), ("batch_size", 1)])
def test_bad_values_are_named(small_stream, context, field, value):
    with pytest.raises(ValueError, match=f"{field} must be at least .*, got {value}"):
        reestimate_batchnorm(nn.BatchNorm2d(3), small_stream.dataset, context, **{field: value})
