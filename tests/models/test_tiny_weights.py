"""Weights that would slow a CPU become zero, wherever a network comes from; no others do."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import nn

from models import SegmentationNetwork, create_model
from models.checkpoint import load_checkpoint, save_checkpoint
from models.engines import EngineSettings
from models.engines.deployed_graph import translate_for_engine
from models.engines.onnx_graph import translate
from models.engines.pytorch import prepare
from models.export import export_onnx
from models.pretrained.finding import load_weights
from models.tiny_weights import SMALLEST, flush_tiny_weights
from trainables.network_config import NetworkConfig

PLAIN = "tests.models.foreign_networks:Plain"
PUBLISHED_ESPNET = "camvid_espnet_orig/espnet_p2_q8_camvid12.safetensors"
SUBNORMAL = 1e-42


def count_tiny(module: nn.Module) -> int:
    return sum(int(((t != 0) & (t.abs() < SMALLEST)).sum()) for t in module.parameters())


def read_weights(content: bytes) -> list[NDArray[np.float32]]:
    tensors = [numpy_helper.to_array(t) for t in onnx.load_from_string(content).graph.initializer]
    return [tensor for tensor in tensors if tensor.dtype == np.float32]


def count_subnormal(content: bytes) -> int:
    smallest = np.finfo(np.float32).tiny
    return sum(int(((w != 0) & (np.abs(w) < smallest)).sum()) for w in read_weights(content))


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
    with caplog.at_level(logging.WARNING, "models.pretrained.finding"):
        load_weights(model, tmp_path / "weights.pth")
    assert count_tiny(model) == 0
    assert "7 of its weights are below 1e-30" in caplog.text
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(model.eval()(images), decayed.eval()(images))


def test_a_checkpoint_is_flushed(decayed: SegmentationNetwork, tmp_path: Path):
    save_checkpoint(tmp_path / "net.safetensors", decayed)
    assert count_tiny(load_checkpoint(tmp_path / "net.safetensors", factory=PLAIN)) == 0


def test_tied_and_frozen_weights_are_flushed_once():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    first.weight.requires_grad_(False).fill_(SUBNORMAL)
    assert flush_tiny_weights(nn.Sequential(first, second)) == 4
    assert second.weight is first.weight
    assert not first.weight.any()


def test_constants_of_a_network_stay():
    layer = nn.BatchNorm2d(2)
    layer.register_buffer("guard", torch.tensor(1e-38))
    assert flush_tiny_weights(layer) == 0
    assert layer.guard > 0


class Small(nn.Sequential):
    """A network whose folded weights are products of small ones, beside one without BatchNorm."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
        with torch.no_grad():
            self[0].weight[0] = 1e-20
            self[1].weight[0] = 1e-20
            self[2].weight[0] = SUBNORMAL


@pytest.mark.parametrize("folds", [True, False])
def test_every_network_that_is_timed_is_flushed(folds: bool):
    model, settings = Small().eval(), EngineSettings(fold_batchnorm=folds)
    assert count_subnormal(translate_for_engine(model, (1, 3, 8, 8), settings)) == 0
    assert count_tiny(prepare(model, (1, 3, 8, 8), settings)) == 0
    assert count_tiny(model) == 4  # the given network is not changed


def test_a_tiny_constant_stays_in_a_file():
    class Guarded(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.log(images + torch.tensor(1e-38))

    content = translate(Guarded().eval(), torch.zeros(1, 3, 8, 8)).content
    session = onnxruntime.InferenceSession(content)
    assert np.isfinite(session.run(None, {"images": np.zeros((1, 3, 8, 8), np.float32)})[0]).all()


def test_a_copy_made_in_inference_mode_is_flushed():
    with torch.inference_mode():
        assert count_tiny(prepare(Small().eval(), (1, 3, 8, 8), EngineSettings())) == 0


def test_an_exported_file_is_flushed(decayed: SegmentationNetwork, tmp_path: Path):
    path = tmp_path / "net.onnx"
    export_onnx(decayed, path, image_size=(64, 64), fold_batchnorm=False)
    assert count_subnormal(path.read_bytes()) == 0


@pytest.mark.skipif("SEGFRONT_WEIGHTS" not in os.environ, reason="needs SEGFRONT_WEIGHTS")
def test_the_file_of_the_published_espnet_has_no_subnormal_number():
    model = NetworkConfig(name="espnet", weights=PUBLISHED_ESPNET, num_outputs=12).build(11)
    content = translate_for_engine(model.eval(), (1, 3, 64, 64), EngineSettings())
    assert read_weights(content)
    assert count_subnormal(content) == 0
