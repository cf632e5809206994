import pytest
import torch
from torch import nn

from trainables.data import normalize
from trainables.learning.batchnorm_statistics import reestimate_batchnorm


def test_statistics_are_the_averages_over_the_batches(small_stream, context):
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(0.5))
    nn.init.constant_(model[0].running_mean, 100.0)
    weight = model[0].weight.clone()
    model.eval()
    reestimate_batchnorm(
        model, small_stream, context, num_batches=2, batch_size=2, precision="float32"
    )
    images = [
        normalize(torch.stack([small_stream[position].image for position in pair]))
        for pair in ((0, 1), (2, 3))
    ]
    means = torch.stack([batch.mean(dim=(0, 2, 3)) for batch in images])
    variances = torch.stack([batch.var(dim=(0, 2, 3)) for batch in images])
    torch.testing.assert_close(model[0].running_mean, means.mean(dim=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model[0].running_var, variances.mean(dim=0), rtol=1e-4, atol=1e-5)
    assert not model.training
    assert model[0].momentum == 0.1
    assert torch.equal(model[0].weight, weight)


@pytest.mark.parametrize(("field", "value"), [("num_batches", 0), ("batch_size", 1)])
def test_bad_values_are_named(small_stream, context, field, value):
    with pytest.raises(ValueError, match=f"{field} must be at least .*, got {value}"):
        reestimate_batchnorm(nn.BatchNorm2d(3), small_stream, context, **{field: value})
