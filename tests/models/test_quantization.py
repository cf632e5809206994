"""Quantisation: rounding is what it should be, harm is found, and as few layers as needed stay."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from models.engines import ENGINES, EngineSettings
from models.engines.onnx_graph import translate
from models.quantization import QUANTIZERS
from models.quantization.accuracy_aware import BETWEEN, quantize_accurately
from models.quantization.fake_quantization import FakeQuantization, LayerRounding
from models.quantization.sensitivity import find_nodes, rank_layers


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 1)
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return self.up(self.second(self.first(images).relu()).relu())


@pytest.fixture
def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


def test_weights_are_rounded_by_channel():
    weight = torch.tensor([[1.27, 0.004], [12.7, 0.04]]).view(2, 2, 1, 1)
    rounded = LayerRounding(0)(weight).flatten().tolist()
    assert rounded == pytest.approx([1.27, 0.0, 12.7, 0.0])
    # Along the other axis the second column has its own scale: 0.04 / 127.
    other = LayerRounding(1)(weight).flatten().tolist()
    assert other == pytest.approx([1.3, 0.04 / 127 * 13, 12.7, 0.04])


def test_inputs_are_rounded_to_256_steps_of_their_range():
    rounding = LayerRounding(0)
    layer = nn.Conv2d(1, 1, 1)
    features = torch.tensor([-1.0, 0.0, 0.0101, 1.55]).view(1, 1, 2, 2)  # steps of 0.01
    (rounded,) = rounding.round_input(layer, (features,))
    assert rounded.flatten().tolist() == pytest.approx([-1.0, 0.0, 0.01, 1.55])
    rounding.is_on = False
    assert rounding.round_input(layer, (features,)) is None


def test_rounding_can_be_trained_through_and_taken_away(small: Small):
    images = torch.randn(2, 3, 8, 8)
    expected = small(images).detach()
    rounding = FakeQuantization(small)
    assert set(rounding.layers) == {"first", "second", "up"}
    changed = small(images)
    assert not torch.equal(changed, expected)
    assert (changed - expected).norm() < 0.05 * expected.norm()
    changed.square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in small.parameters())
    with rounding.only(set()):
        torch.testing.assert_close(small(images), expected)
    rounding.remove()
    torch.testing.assert_close(small(images), expected)
    assert set(small.state_dict()) == set(Small().state_dict())


class Sized(nn.Module):
    """Tells a transposed convolution the size of its output, and normalises its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.down = spectral_norm(nn.Conv2d(3, 8, 3, stride=2, padding=1))
        self.up = weight_norm(nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1))

    def forward(self, images: Tensor) -> Tensor:
        return self.up(self.down(images), images.shape[-2:])


def test_layers_of_the_users_own_kind_are_rounded():
    torch.manual_seed(0)
    network, images = Sized().eval(), torch.randn(1, 3, 8, 8)
    expected = network(images).detach()
    assert {name for name, _ in rank_layers(network, [images])} == {"down", "up"}
    rounding = FakeQuantization(network)
    changed = network(images)
    assert 0 < (changed - expected).norm() < 0.05 * expected.norm()
    changed.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    rounding.remove()
    torch.testing.assert_close(network(images), expected)
    assert set(network.state_dict()) == set(Sized().state_dict())


def test_the_layer_that_rounding_harms_is_found(small: Small):
    with torch.no_grad():
        small.second.weight[:, 0] *= 500  # one input rules the range of all weights of its channel
        small.first.weight[0] *= 0.002
        small.first.bias[0] *= 0.002
    images = [torch.randn(1, 3, 8, 8) for _ in range(3)]
    before = small(images[0]).detach()
    ranking = rank_layers(small, images)
    assert ranking[0][0] == "second"
    assert ranking[0][1] > 2 * ranking[1][1]
    torch.testing.assert_close(small(images[0]), before)


def test_layers_are_found_in_the_file(small: Small):
    content = translate(small, torch.rand(1, 3, 8, 8)).content
    nodes = find_nodes(small, content)
    assert {name: len(found) for name, found in nodes.items()} == {"first": 1, "second": 1, "up": 1}
    assert "second" in nodes["second"][0]


@pytest.mark.parametrize(
    ("needed", "expected_attempts"),
    [(-1, [-1]), (0, [-1, 0]), (1, [-1, 0, 1]), (3, [-1, 0, 1, 2, 4, 3]),
     (5, [-1, 0, 1, 2, 4, 6, 5]), (6, [-1, 0, 1, 2, 4, 6, 5, 6])],
)  # fmt: skip
def test_as_few_layers_as_needed_stay_in_float(
    needed: int, expected_attempts: list[int], tmp_path: Path
):
    ranking = ["a", "b", "c", "d", "e", "f"]
    attempts: list[int] = []

    def quantize(file, folder, images, kept_float, *, only_convolutions):
        attempts.append(len(kept_float) if only_convolutions else -1)
        return ["model"]

    found = quantize_accurately(
        quantize, tmp_path / "float", tmp_path, [], ranking=ranking,
        nodes={name: [f"/{name}/Conv"] for name in ranking},
        evaluate=lambda path: 0.69 if attempts[-1] >= needed else 0.6,
        float_accuracy=0.7, max_drop=0.0101,
    )  # fmt: skip
    assert found.kept_float == ([] if needed < 0 else [BETWEEN, *ranking[:needed]])
    assert found.accuracy == 0.69
    assert attempts == expected_attempts
    assert attempts[-1] == needed  # the files are those of the answer


@pytest.mark.parametrize("engine_name", ["onnxruntime", "openvino", "tensorrt"])
def test_a_file_is_quantised_but_for_what_stays(engine_name: str, small: Small, tmp_path: Path):
    if engine_name == "openvino":
        pytest.importorskip("nncf", reason="nncf is not installed")
    import onnx

    content = translate(small, torch.rand(1, 3, 8, 8)).content
    (tmp_path / "float.onnx").write_bytes(content)
    images = [np.random.default_rng(i).random((1, 3, 8, 8), np.float32) for i in range(3)]
    kept = find_nodes(small, content)["second"]
    quantize = QUANTIZERS[engine_name]
    runner = ENGINES["openvino" if engine_name == "openvino" else "onnxruntime"]
    expected = small(torch.from_numpy(images[0])).detach().numpy()
    errors = []
    level = logging.getLogger().level
    for names in ([], kept):
        files = quantize(tmp_path / "float.onnx", tmp_path, images, names)
        session = runner.load(tmp_path / files[0], (1, 3, 8, 8), EngineSettings())
        found = session.run(images[0])
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert logging.getLogger().level == level
    assert 1e-4 < errors[1] < 0.1
    assert 1e-4 < errors[0] < 0.1
    if engine_name != "openvino":
        (ranges,) = tmp_path.glob("ranges-*.json")  # found once, for both
        before = ranges.read_bytes()
        quantize(tmp_path / "float.onnx", tmp_path, [2 * image for image in images], [])
        assert len(list(tmp_path.glob("ranges-*.json"))) == 2  # other images, other ranges
        assert ranges.read_bytes() == before
        quantize(tmp_path / "float.onnx", tmp_path, images, kept)
        nodes = {node.name: node for node in onnx.load(tmp_path / files[0]).graph.node}
        assert nodes[kept[0]].input[1] == "model.second.weight"  # in float, as it was
        makers = {name: node.op_type for node in nodes.values() for name in node.output}
        first = find_nodes(small, content)["first"][0]
        assert makers[nodes[first].input[1]] == "DequantizeLinear"


@pytest.mark.parametrize("engine_name", ["onnxruntime", "openvino"])
def test_with_every_convolution_kept_the_file_is_in_float(engine_name: str, tmp_path: Path):
    if engine_name == "openvino":
        pytest.importorskip("nncf", reason="nncf is not installed")
    torch.manual_seed(0)
    network = Summing().eval()
    content = translate(network, torch.rand(1, 3, 8, 8)).content
    (tmp_path / "float.onnx").write_bytes(content)
    images = [np.random.default_rng(i).random((1, 3, 8, 8), np.float32) for i in range(3)]
    nodes = [name for names in find_nodes(network, content).values() for name in names]
    expected = network(torch.from_numpy(images[0])).detach().numpy()
    errors = {}
    for only_convolutions in (False, True):
        quantize = QUANTIZERS[engine_name]
        files = quantize(
            tmp_path / "float.onnx", tmp_path, images, nodes, only_convolutions=only_convolutions
        )
        session = ENGINES[engine_name].load(tmp_path / files[0], (1, 3, 8, 8), EngineSettings())
        errors[only_convolutions] = np.abs(session.run(images[0]) - expected).max()
    assert errors[True] < 1e-5
    if engine_name == "onnxruntime":
        assert errors[False] > 1e-4  # the sum and the concatenation are rounded


class Summing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        first, second = self.first(images), self.second(images)
        return self.last(torch.cat([first + 3 * second, second.relu()], dim=1))


def test_the_module_path_stays_as_it_was():
    code = "import sys; path = list(sys.path); import models.quantization; assert sys.path == path"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=200)
