"""With which weights and statistics a training's network is evaluated and saved."""

import copy
from dataclasses import replace

import pytest
import torch

from models.checkpoint import load_checkpoint
from trainables.learning.batchnorm_statistics import reestimate_batchnorm
from trainables.learning.evaluation import evaluate
from trainables.learning.training import TrainConfig
from trainables.stages.learning import Learning


@pytest.fixture
def learning(tiny_config):
    training = TrainConfig(num_steps=4, batch_size=2, batchnorm_batches=2, average_share=0.5)
    return Learning(data=tiny_config.data, training=training, seed=0)


def build(config):
    torch.manual_seed(0)
    return config.student.build(19)


def run(learning, config, folder, context, **options):
    folder.mkdir(exist_ok=True)
    return learning.run(build(config), folder, context, name="dense", metadata={}, **options)


def test_statistics_are_measured_anew_at_the_end(learning, tiny_config, context, tmp_path):
    run(learning, tiny_config, tmp_path / "anew", context)
    kept = replace(learning, training=replace(learning.training, batchnorm_batches=0))
    run(kept, tiny_config, tmp_path / "kept", context)
    found = load_checkpoint(tmp_path / "anew" / "checkpoint.safetensors")
    expected = load_checkpoint(tmp_path / "kept" / "checkpoint.safetensors")
    before = copy.deepcopy(expected.state_dict())
    images = tiny_config.data.open_cached("train", context.cache_dir)
    reestimate_batchnorm(expected, images, context, num_batches=2)
    changed = 0
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(found.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
        changed += "running_var" in name and not torch.equal(tensor, before[name])
    assert changed


def test_a_pause_changes_nothing(learning, tiny_config, context, tmp_path):
    whole = run(learning, tiny_config, tmp_path / "whole", context)
    run(learning, tiny_config, tmp_path / "paused", context, share=0.5)
    paused = run(learning, tiny_config, tmp_path / "paused", context)
    assert paused["miou"] == whole["miou"]
    one, other = (
        load_checkpoint(tmp_path / name / "checkpoint.safetensors").state_dict()
        for name in ("whole", "paused")
    )
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


@pytest.mark.parametrize("share", [0.5, 1.0])
@pytest.mark.parametrize("precision", ["auto", "float32", "bfloat16"])
def test_a_network_is_evaluated_in_the_precision_of_its_training(
    learning, tiny_config, context, tmp_path, monkeypatch, precision, share
):
    used = []

    def note(*arguments, precision):
        used.append(precision)
        return evaluate(*arguments, precision=precision)

    monkeypatch.setattr("trainables.stages.learning.evaluate", note)
    training = replace(learning.training, precision=precision)
    learning = replace(learning, training=training)
    run(learning, tiny_config, tmp_path / "a", context, share=share)
    assert used == [precision]
    assert ("evaluation" in learning.content()) == (precision != "auto")


@pytest.mark.parametrize(("field", "value"), [("batchnorm_batches", -1), ("average_share", 1.5)])
def test_bad_values_are_named(field, value):
    with pytest.raises(ValueError, match=f"{field} must .*got {value}"):
        TrainConfig(**{field: value})
