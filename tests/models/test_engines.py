"""Engines: each computes what PyTorch computes, says what it is, and says why it cannot."""

from __future__ import annotations

import gc
import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models import create_model
from models.blocks.attention import EfficientChannelAttention
from models.deployment.graph import DeployedGraph
from models.engines import (
    ENGINES,
    EngineError,
    EngineSettings,
    FileEngine,
    get_engine,
    resolve_engine,
)
from models.engines import openvino as openvino_engine
from models.engines.deployed_graph import NORMALIZATION, translate_for_engine
from models.engines.onnx_graph import ExportError, translate
from models.engines.plain_tracing import PlainlyTraced
from models.latency import Reference, measure_latency
from models.signal_stack import read_signal_stack

SHAPE = (1, 3, 64, 96)


def needs(package: str) -> pytest.MarkDecorator:
    missing = find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed")


ON_THIS_MACHINE = [
    "onnxruntime",
    pytest.param("openvino", marks=needs("openvino")),
    "pytorch",
    pytest.param(
        "torch_compile",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(shutil.which("g++") is None, reason="there is no C++ compiler"),
        ],
    ),
]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    network = create_model("fast_scnn", num_classes=5)
    network(torch.randn(2, 3, 64, 96))  # moves the running statistics
    return network.eval()


class Small(nn.Module):
    """The kinds of layers of a network, each once: torch.compile takes 40 s for a whole one."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.transposed = nn.ConvTranspose2d(16, 8, 2, 2)
        self.classes = nn.Conv2d(8, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        fine = self.down(images)
        coarse = nn.functional.adaptive_avg_pool2d(fine, (4, 6)).sigmoid()
        coarse = nn.functional.interpolate(coarse, fine.shape[-2:], mode="bilinear")
        both = torch.cat([self.depthwise(fine) + coarse, nn.functional.hardswish(fine)], dim=1)
        logits: Tensor = self.classes(self.transposed(both))
        return logits


@pytest.mark.parametrize("name", ON_THIS_MACHINE)
def test_an_engine_computes_what_pytorch_computes(name: str, model: nn.Module):
    settings = EngineSettings()
    if name == "torch_compile":
        torch.manual_seed(0)
        model = Small().eval()
    session = ENGINES[name].build(model, SHAPE, settings)
    generator = np.random.default_rng(0)
    if session.image_dtype == "uint8":
        images = generator.integers(0, 256, SHAPE, np.uint8)
        whole = DeployedGraph(model, NORMALIZATION, (64, 96))
    else:
        images, whole = generator.standard_normal(SHAPE, np.float32), model
    with torch.no_grad():
        expected = whole(torch.from_numpy(images)).numpy()
    found = session.run(images)
    assert found.shape == expected.shape == (1, 5, 64, 96)
    assert np.linalg.norm(found - expected) < 1e-4 * np.linalg.norm(expected)
    assert session.make_run(images)() > 0


@needs("openvino")
def test_openvino_is_timed_without_copies_of_its_output(monkeypatch: pytest.MonkeyPatch):
    network = nn.Upsample(scale_factor=16).eval()  # its output is large
    session = ENGINES["openvino"].build(network, SHAPE, EngineSettings())
    images = np.zeros(SHAPE, np.uint8)
    kept = session.run(images)
    shares: list[Any] = []
    infer = type(session.request).infer

    def note(request: Any, *arguments: Any, **options: Any) -> Any:
        shares.append(infer(request, *arguments, **options)[0])
        return {0: shares[-1]}

    monkeypatch.setattr(type(session.request), "infer", note)
    monkeypatch.setattr(session, "run", lambda _: pytest.fail("it copies the output"))
    run = session.make_run(images)
    assert run() > 0
    assert run() > 0
    assert np.shares_memory(*shares)
    assert not np.shares_memory(kept, shares[0])


@needs("openvino")
def test_a_signal_finds_its_stack_after_networks_are_freed_in_any_order(model: nn.Module):
    before = bytes(read_signal_stack())
    first, second = (ENGINES["openvino"].build(model, SHAPE, EngineSettings()) for _ in range(2))
    first.run(np.zeros(SHAPE, np.float32))
    del first
    gc.collect()
    del second
    gc.collect()
    assert bytes(read_signal_stack()) == before


@pytest.mark.parametrize("name", ON_THIS_MACHINE)
def test_an_engine_describes_itself(name: str):
    description = ENGINES[name].describe(EngineSettings(num_threads=2))
    assert description["name"] == name
    keys = {"name", "version", "provider", "precision", "num_threads", "graph_optimization"}
    assert set(description) == keys
    assert description["num_threads"] == 2
    json.dumps(description)


@pytest.mark.parametrize("name", [p for p in ON_THIS_MACHINE if "compile" not in str(p)])
def test_latency_is_that_of_the_engine(name: str, model: nn.Module):
    latency = measure_latency(
        model, SHAPE[1:], num_threads=1, engine=name, fold_batchnorm=True, max_seconds=1.0,
        reference=Reference(model, 7.0),
    )  # fmt: skip
    assert latency.engine["name"] == name
    assert latency.median_ms == pytest.approx(7.0, rel=0.3)
    assert latency.interval_ms[0] <= latency.median_ms <= latency.interval_ms[1]


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=needs("openvino"))])
def test_a_file_is_timed_like_its_network(name: str, model: nn.Module, tmp_path: Path):
    path = tmp_path / "net.onnx"
    path.write_bytes(translate_for_engine(model, SHAPE, EngineSettings()))
    latency = measure_latency(path, SHAPE[1:], engine=name, min_runs=3, max_runs=3, num_threads=1)
    assert latency.median_ms > 0
    engine = ENGINES[name]
    assert isinstance(engine, FileEngine)
    names = engine.write_files(path, SHAPE, EngineSettings())
    session = engine.load(tmp_path / [*names, path.name][0], SHAPE, EngineSettings())
    images = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)
    expected = engine.load(path.read_bytes(), SHAPE, EngineSettings()).run(images)
    np.testing.assert_allclose(session.run(images), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "device", "expected"),
    [
        ("auto", "cpu", "onnxruntime"),
        ("auto", "meta", "pytorch"),
        ("openvino", "cpu", "openvino"),
        ("auto", "cuda:1", "tensorrt" if find_spec("tensorrt_bindings") else "pytorch"),
    ],
)
def test_the_engine_follows_the_device(name: str, device: str, expected: str):
    assert resolve_engine(name, device) == expected
    assert get_engine(name, device) is ENGINES[expected]


def test_an_unknown_engine_is_named():
    with pytest.raises(ValueError, match=r"auto or one of onnxruntime, .*; got 'tflite'"):
        resolve_engine("tflite", "cpu")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "onnxruntime",
            {"dtype": "bfloat16"},
            "used with float32 only, got bfloat16: set the latency's",
        ),
        ("onnxruntime", {"device": "mps"}, "on cpu or cuda, not on mps"),
        ("openvino", {"device": "cuda"}, "openvino is (used on a CPU|not installed)"),
        ("openvino", {"dtype": "float16"}, "openvino (runs float32 or|is not installed)"),
        ("tensorrt", {}, r"tensorrt (is not installed: pip install|runs on cuda)"),
    ],
)
def test_an_engine_says_why_it_cannot(name: str, settings: dict[str, Any], message: str):
    with pytest.raises(EngineError, match=message):
        ENGINES[name].check(EngineSettings(**settings))


def test_pytorch_takes_no_files(tmp_path: Path):
    with pytest.raises(EngineError, match="runs PyTorch networks, not files"):
        measure_latency(tmp_path / "net.onnx", SHAPE[1:], engine="pytorch")


@pytest.mark.parametrize("name", ["onnxruntime", pytest.param("openvino", marks=needs("openvino"))])
def test_a_broken_file_is_refused(name: str):
    engine = ENGINES[name]
    assert isinstance(engine, FileEngine)
    with pytest.raises(EngineError, match=f"{name} cannot load the file: .+"):
        engine.load(b"no graph", SHAPE, EngineSettings())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@needs("tensorrt_bindings")
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_tensorrt_computes_what_pytorch_computes(dtype: str, model: nn.Module):
    settings = EngineSettings(device="cuda", dtype=dtype)
    session = ENGINES["tensorrt"].build(model, SHAPE, settings)
    images = np.random.default_rng(0).integers(0, 256, SHAPE, np.uint8)
    with torch.no_grad():
        expected = DeployedGraph(model, NORMALIZATION, (64, 96))(torch.from_numpy(images)).numpy()
    found = session.run(images)
    assert np.linalg.norm(found - expected) < 0.02 * np.linalg.norm(expected)


class Odd(nn.Module):
    """Grids that do not divide the map, sums of channels, unpooling: what ONNX lacks."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("owners", torch.tensor([0, 2, 1, 0, 1, 2]))

    def forward(self, images: Tensor) -> Tensor:
        pooled, indices = nn.functional.max_pool2d(images, 2, return_indices=True)
        back = nn.functional.max_unpool2d(pooled, indices, 2, output_size=images.shape[-2:])
        both = torch.cat([back, images], dim=1)
        summed = images.new_zeros(*images.shape).index_add(1, self.owners, both)
        return nn.functional.adaptive_avg_pool2d(summed, (5, round(images.shape[-1] / 13)))


def test_what_onnx_lacks_is_computed_otherwise():
    network, images = Odd().eval(), torch.rand(2, 3, 18, 31)
    traced = PlainlyTraced(network, fixes_sizes=True)
    torch.testing.assert_close(traced(images), network(images))
    content = translate(network, images, 13).content
    session = ENGINES["onnxruntime"].load(content, (2, 3, 18, 31), EngineSettings())
    torch.testing.assert_close(torch.from_numpy(session.run(images.numpy())), network(images))


class Unpooling(nn.Module):
    """Unpools to PyTorch's default size, as most SegNets do."""

    def __init__(self, *window: Any) -> None:
        super().__init__()
        self.pool = nn.MaxPool2d(*window, return_indices=True)
        self.unpool = nn.MaxUnpool2d(*window)

    def forward(self, images: Tensor) -> Tensor:
        return self.unpool(*self.pool(images))


@pytest.mark.parametrize(
    ("window", "size"),
    [((2,), (18, 24)), (((2, 3),), (18, 24)), ((2, 3), (17, 23)), ((3, 2, 1), (17, 23))],
)
def test_unpooling_has_the_default_size_of_pytorch(window: tuple[Any, ...], size: tuple[int, int]):
    network, images = Unpooling(*window).eval(), torch.rand(1, 2, *size)
    expected = network(images)
    torch.testing.assert_close(PlainlyTraced(network, fixes_sizes=True)(images), expected)
    content = translate(network, images, 13).content
    session = ENGINES["onnxruntime"].load(content, images.shape, EngineSettings())
    np.testing.assert_allclose(session.run(images.numpy()), expected.numpy())


class Picky(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        raise AssertionError("only 224 x 224")


def test_a_network_that_refuses_the_images_is_an_error_of_the_engine():
    with pytest.raises(EngineError, match=r"cannot be translated .*: only 224 x 224"):
        translate_for_engine(Picky().eval(), SHAPE, EngineSettings())


class Wavering(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images if images.mean() > 0 else -images


@pytest.mark.parametrize("opset", [11, 17, 22])
def test_a_decision_by_value_is_refused(opset: int):
    with pytest.raises(ExportError, match=r"PyTorch cannot translate the network: .+"):
        translate(Wavering().eval(), torch.rand(1, 3, 8, 8), opset)


def test_openvino_is_asked_for_when_it_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(EngineError, match=r"not installed: pip install -e '.\[openvino\]'"):
        openvino_engine.OpenVino().check(EngineSettings())


class Counting(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return images.repeat(len(images), 1, 1, 1) * len(images[0])


def make_pruned_attention() -> nn.Module:
    attention = EfficientChannelAttention(8)
    attention.keep([0, 2, 3, 7])
    return nn.Sequential(nn.Conv2d(3, 4, 1), attention)


@pytest.mark.parametrize("make", [Counting, make_pruned_attention])
def test_the_length_of_a_tensor_and_a_pruned_attention_are_translated(make: Any):
    torch.manual_seed(0)
    network = make().eval()
    images = np.random.default_rng(0).integers(0, 256, (1, 3, 8, 8), np.uint8)
    session = ENGINES["onnxruntime"].build(network, images.shape, EngineSettings())
    with torch.no_grad():
        expected = DeployedGraph(network, NORMALIZATION, (8, 8))(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(session.run(images), expected, rtol=1e-4, atol=1e-5)
