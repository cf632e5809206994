"""Weights that would slow a CPU become zero, wherever a network comes from; no others do."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from models import SegmentationNetwork, create_model
from models.checkpoint import load_checkpoint, save_checkpoint
from models.engines import EngineSettings
from models.engines.batchnorm_folding import fold_batchnorms
from models.engines.deployed_graph import translate_for_engine
from models.pretrained.finding import load_weights
from models.tiny_weights import SMALLEST, flush_tiny_weights
from trainables.network_config import NetworkConfig

PLAIN = "tests.models.foreign_networks:Plain"
PUBLISHED_ESPNET = "camvid_espnet_orig/espnet_p2_q8_camvid12.safetensors"
SUBNORMAL = 1e-42


def count_tiny(module: nn.Module) -> int:
    tensors = [*module.parameters(), *module.buffers()]
    return sum(int(((t != 0) & (t.abs() < SMALLEST)).sum()) for t in tensors)


@pytest.fixture
def decayed() -> SegmentationNetwork:
    """A network of which seven weights have decayed to subnormal numbers."""
    model = create_model(PLAIN, num_classes=5)
    with torch.no_grad():
        model.network.head.weight.flatten()[:7] = -SUBNORMAL
    return model


def test_only_tiny_numbers_change():
    layer = nn.Linear(2, 3)
    values = [SUBNORMAL, -SUBNORMAL, 0.9 * SMALLEST, 1.1 * SMALLEST, float("nan"), float("inf")]
    with torch.no_grad():
        layer.weight.flatten()[:] = torch.tensor(values)
    expected = torch.tensor([0.0, 0.0, 0.0, *values[3:]])
    assert flush_tiny_weights(layer) == 3
    torch.testing.assert_close(layer.weight.flatten(), expected, rtol=0, atol=0, equal_nan=True)
    assert flush_tiny_weights(layer) == 0


def test_a_given_file_is_flushed_and_the_user_is_told(
    decayed: SegmentationNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    torch.save(decayed.network.state_dict(), tmp_path / "weights.pth")
    model = create_model(PLAIN, num_classes=5)
    with caplog.at_level(logging.INFO, "models.pretrained.finding"):
        load_weights(model, tmp_path / "weights.pth")
    assert count_tiny(model) == 0
    assert "7 of its numbers are nearer to zero than 1e-30" in caplog.text
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.eval()(images), decayed.eval()(images))


def test_a_checkpoint_is_flushed(decayed: SegmentationNetwork, tmp_path: Path):
    save_checkpoint(tmp_path / "net.safetensors", decayed)
    assert count_tiny(load_checkpoint(tmp_path / "net.safetensors", factory=PLAIN)) == 0


def test_products_of_small_weights_are_flushed():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    with torch.no_grad():
        model[0].weight[0] = 1e-20
        model[1].weight[0] = 1e-20
    assert count_tiny(model) == 0
    assert fold_batchnorms(model, torch.rand(1, 3, 8, 8)) == 1
    assert count_tiny(model) == 0
    assert (model[0].weight[0] == 0).all()
    assert (model[0].weight[1:] != 0).all()


@pytest.mark.skipif("SEGFRONT_WEIGHTS" not in os.environ, reason="needs SEGFRONT_WEIGHTS")
def test_the_file_of_the_published_espnet_has_no_subnormal_number():
    model = NetworkConfig(name="espnet", weights=PUBLISHED_ESPNET, num_outputs=12).build(11)
    content = translate_for_engine(model.eval(), (1, 3, 64, 64), EngineSettings())
    weights = [numpy_helper.to_array(t) for t in onnx.load_from_string(content).graph.initializer]
    for values in (w for w in weights if w.dtype == np.float32):
        assert not ((values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)).any()
