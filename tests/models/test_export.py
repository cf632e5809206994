"""Exported networks: onnxruntime computes what PyTorch computes, or no file is written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import MODELS, SegmentationNetwork, create_model, export
from models.blocks.layers import ConvBNReLU, resize
from models.checkpoint import save_checkpoint
from models.deployment.bundle import read_bundle, update_bundle
from models.engines import onnx_graph
from models.export import ExportError, export_onnx, main
from models.normalization import Normalization, Normalize
from models.pruning import prune
from trainables.data import IMAGENET_MEAN, IMAGENET_STD, normalize

SMALL: dict[str, dict[str, Any]] = {
    "dual_branch": {"backbone": "tu-resnet18d", "width": 0.25, "auxiliary": True},
    "deeplabv3plus": {"backbone": "tu-tf_efficientnet_lite0", "decoder_channels": 32},
}
# Those with every layer that is not plain: unpooling (enet), channels by number (lednet, espnetv2),
# sums and maxima over channels (pidnet_s, pp_liteseg_t), grids of averages (espnetv2, swiftnet),
# timm's BatchNorms and padding (dual_branch, deeplabv3plus). An export takes 4 to 20 seconds;
# SEGFRONT_EXPORT_ALL=1 tests the others too.
TESTED = (
    "deeplabv3plus", "dual_branch", "enet", "espnetv2", "lednet", "pidnet_s", "pp_liteseg_t",
    "swiftnet_resnet18",
)  # fmt: skip
OTHERS = pytest.mark.skipif(
    "SEGFRONT_EXPORT_ALL" not in os.environ, reason="SEGFRONT_EXPORT_ALL is not set"
)
SLOW = ("espnetv2", "tbfenet")


class Tiny(SegmentationNetwork):
    """Little enough to be exported in a second."""

    def __init__(self) -> None:
        super().__init__()
        self.features = ConvBNReLU(3, 8, 3, stride=2)
        self.classify = nn.Conv2d(8, 5, 1)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        return (resize(self.classify(self.features(images)), images.shape[-2:]),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        return (self.classify,)


class Wavering(Tiny):
    """Takes a path that depends on what it sees, which no fixed graph can."""

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        (logits,) = super().compute_outputs(images, with_auxiliary)
        return (logits if logits.mean() > 0 else -logits,)


class OneSize(Tiny):
    """Accepts images of one size, as a ViT does."""

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        assert images.shape[-2:] == (96, 128), "only 96 x 128"
        return super().compute_outputs(images, with_auxiliary)


@pytest.fixture
def tiny() -> Tiny:
    torch.manual_seed(0)
    model = Tiny()
    model(torch.randn(4, 3, 64, 64))  # moves the running statistics
    return model


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = create_model("fast_scnn", num_classes=5)
    prune(model, torch.zeros(1, 3, 64, 64), 0.5)
    normalization = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD, "scale": 255}
    path = tmp_path_factory.mktemp("distilled-0") / "checkpoint.safetensors"
    save_checkpoint(path, model, {"normalization": normalization, "classes": list("abcde")})
    return path


def run_file(path: Path, images: Tensor) -> Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def check_export(model: SegmentationNetwork, path: Path, size: tuple[int, int]) -> None:
    with torch.no_grad():
        model.train()(torch.randn(2, 3, 64, 96))  # moves the running statistics
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    exported = export_onnx(model, path, image_size=size)
    assert model.training
    assert all(torch.equal(before[key], tensor) for key, tensor in model.state_dict().items())
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = model.eval()(images)
    assert exported.output_shape == expected.shape
    # In unpooling a value may move by rounding; elsewhere the error is about 1e-7.
    limit = 0.03 if model.name in ("enet", "segnet") else 1e-5
    assert exported.error < limit
    assert (run_file(path, images) - expected).norm() < limit * expected.norm()


@pytest.mark.parametrize("name", ["fast_scnn", "lednet", "segnet"])
def test_networks_are_exported_at_odd_sizes(name: str, tmp_path: Path):
    torch.manual_seed(0)
    check_export(create_model(name, num_classes=5), tmp_path / "net.onnx", (65, 97))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in SLOW else ())
        if name in TESTED
        else pytest.param(name, marks=OTHERS)
        for name in sorted(MODELS)
    ],
)
def test_pruned_networks_are_exported(name: str, tmp_path: Path):
    torch.manual_seed(0)
    model = create_model(name, num_classes=5, **SMALL.get(name, {}))
    prune(model, torch.zeros(1, 3, 64, 64), 0.5)
    check_export(model, tmp_path / "net.onnx", (64, 96))


@pytest.mark.parametrize("opset", [11, 13, 17, 20, 23])
def test_opset_and_batch_are_those_asked_for(tiny: Tiny, opset: int, tmp_path: Path):
    path = tmp_path / "new" / "folder" / "net.onnx"
    exported = export_onnx(tiny, path, image_size=(64, 80), batch_size=3, opset=opset)
    assert exported.path == path
    assert exported.num_bytes == path.stat().st_size
    assert exported.input_shape == (3, 3, 64, 80)
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert [(entry.domain, entry.version) for entry in file.opset_import] == [("", opset)]
    images = torch.randn(3, 3, 64, 80)
    torch.testing.assert_close(run_file(path, images), tiny.eval()(images).detach())


def test_nothing_of_this_machine_is_in_the_file(tiny: Tiny, tmp_path: Path):
    export_onnx(tiny, tmp_path / "net.onnx", image_size=(64, 64), notes={"classes": "[]"})
    content = (tmp_path / "net.onnx").read_bytes()
    assert str(Path(__file__).parents[2]).encode() not in content
    assert b"site-packages" not in content
    notes = {entry.key: entry.value for entry in onnx.load_from_string(content).metadata_props}
    assert notes == {"network": "", "classes": "[]"}
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_normalization_is_that_of_training():
    images = torch.arange(256, dtype=torch.uint8).repeat(3, 1).view(1, 3, 16, 16)
    layer = Normalize(Normalization(mean=IMAGENET_MEAN, std=IMAGENET_STD))
    torch.testing.assert_close(layer(images), normalize(images), check_stride=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": (0.0, 0.0)}, r"3 entries, got \(0.0, 0.0\)"),
        ({"std": (1.0, 0.0, 1.0)}, r"above 0, got \(1.0, 0.0, 1.0\)"),
        ({"scale": 0.0}, r"above 0, .* 0.0"),
    ],
)
def test_normalization_states_what_is_wrong(change: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        Normalization(**{"mean": IMAGENET_MEAN, "std": IMAGENET_STD, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": (63, 64)}, r"at least 64, got \(63, 64\)"),
        ({"batch_size": 0}, "at least 1, got 0"),
        ({"opset": 10}, "11 to 23, got 10"),
        ({"source_size": (720, 8)}, r"source_size .* at least 64, got \(720, 8\)"),
        ({"max_error": 0.0}, "above 0, got 0.0"),
        ({"path": "."}, r"path must be that of a file, got the folder \."),
        ({"model": nn.Identity()}, "must be a SegmentationNetwork, got a Identity"),
    ],
)
def test_arguments_out_of_range_are_named(
    tiny: Tiny, change: dict[str, Any], message: str, tmp_path: Path
):
    given = {"model": tiny, "path": tmp_path / "net.onnx", "image_size": (64, 64), **change}
    with pytest.raises(ValueError, match=message):
        export_onnx(**given)


@pytest.mark.parametrize(("unpools", "limit"), [(False, "0.0001"), (True, "0.03")])
def test_another_result_leaves_the_old_file(
    tiny: Tiny, unpools: bool, limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "net.onnx"
    path.write_bytes(b"old")
    translation = onnx_graph.Translation(b"new", unpools)
    monkeypatch.setattr(export, "translate", lambda *_, **__: translation)
    monkeypatch.setattr(export, "_run_onnx", lambda _, images: 1.05 * tiny.eval()(images).detach())
    with pytest.raises(ExportError, match=f"error of its logits is 0.05, the limit is {limit}"):
        export_onnx(tiny, path, image_size=(64, 64))
    assert path.read_bytes() == b"old"
    export_onnx(tiny, path, image_size=(64, 64), max_error=0.06)
    assert path.read_bytes() == b"new"
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]


def test_a_network_without_a_fixed_graph_is_refused(tmp_path: Path):
    with pytest.raises(ExportError, match=r"PyTorch cannot translate the network: .+"):
        export_onnx(Wavering(), tmp_path / "net.onnx", image_size=(64, 64))
    assert not list(tmp_path.iterdir())


def test_a_network_of_one_image_size_is_exported_at_that(tmp_path: Path):
    path = tmp_path / "net.onnx"
    with pytest.raises(ExportError, match=r"not run on images of shape \(1, 3, 64, 96\): only 96"):
        export_onnx(OneSize(), path, image_size=(64, 96))
    exported = export_onnx(OneSize(), path, image_size=(96, 128))
    assert exported.output_shape == (1, 5, 96, 128)


@pytest.mark.parametrize("argmax", [False, True])
def test_logits_that_are_not_finite_are_refused(tiny: Tiny, argmax: bool, tmp_path: Path):
    nn.init.constant_(tiny.classify.weight, float("nan"))
    with pytest.raises(ExportError, match="not finite"):
        export_onnx(tiny, tmp_path / "net.onnx", image_size=(64, 64), argmax=argmax)


def test_classes_are_returned_only_if_a_byte_can_hold_them(tiny: Tiny, tmp_path: Path):
    tiny.classify = nn.Conv2d(8, 257, 1)
    path = tmp_path / "net.onnx"
    with pytest.raises(ValueError, match="at most 256, got 257"):
        export_onnx(tiny, path, image_size=(64, 64), argmax=True)
    export_onnx(tiny, path, image_size=(64, 64))


def test_what_onnxruntime_says_of_a_broken_file_is_told(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = onnx_graph.Translation(b"no graph", False)
    monkeypatch.setattr(export, "translate", lambda *_, **__: broken)
    with pytest.raises(ExportError, match=r"does not run: onnxruntime cannot load the file: .+"):
        export_onnx(tiny, tmp_path / "net.onnx", image_size=(64, 64))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [11, 17, 23])
def test_a_dynamic_batch_takes_any_number_of_images(tiny: Tiny, opset: int, tmp_path: Path):
    path = tmp_path / "net.onnx"
    export_onnx(tiny, path, image_size=(64, 80), dynamic_batch=True, opset=opset)
    for number in (1, 2, 5):
        images = torch.randn(number, 3, 64, 80)
        torch.testing.assert_close(run_file(path, images), tiny.eval()(images).detach())


def test_a_file_resizes_and_decides_by_itself(tiny: Tiny, tmp_path: Path):
    path = tmp_path / "net.onnx"
    normalization = Normalization(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    exported = export_onnx(
        tiny, path, image_size=(64, 80), source_size=(100, 150), normalization=normalization,
        argmax=True, opset=13,
    )  # fmt: skip
    assert exported.input_shape == (1, 3, 100, 150)
    assert exported.output_shape == (1, 100, 150)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 100, 150), np.uint8))
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (classes,) = session.run(["classes"], {"images": images.numpy()})
    small = F.interpolate(normalize(images), (64, 80), mode="bilinear")
    with torch.no_grad():
        logits = F.interpolate(tiny.eval()(small), (100, 150), mode="bilinear")
    assert classes.dtype == np.uint8
    assert np.mean(classes == logits.argmax(1).numpy()) > 0.999


@pytest.fixture
def run_dir(checkpoint: Path, tmp_path: Path) -> Path:
    """A run of two trials, of which the first was distilled, the second stopped before."""
    folder = tmp_path / "run"
    (folder / "stages").mkdir(parents=True)
    (folder / "stages" / "distilled-a").symlink_to(checkpoint.parent)
    (folder / "trials.csv").write_text(
        "trial,state,stage/dense,stage/distilled,network\n"
        "4,complete,dense-a,distilled-a,distilled-a\n5,pruned,dense-a,,\n"
    )
    latency = {"resolution": [64, 96], "device": "cpu", "dtype": "float32", "num_threads": 1}
    (folder / "metadata.json").write_text(json.dumps({"latency": latency}))
    return folder


def test_the_command_exports_a_trial(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    assert main([str(run_dir), "--trial", "4"]) == 0
    path = run_dir / "deploy" / "4" / "model.onnx"
    names = sorted(file.name for file in path.parent.iterdir())
    assert names == ["model.json", "model.onnx", "predict.py"]
    assert f"{path}: " in capsys.readouterr().out
    assert run_file(path, torch.zeros(1, 3, 64, 96, dtype=torch.uint8)).shape == (1, 5, 64, 96)


@pytest.mark.parametrize(
    ("flags", "miou"), [([], 0.5), (["--opset", "13"], 0.5), (["--image-size", "64", "64"], None)]
)
def test_a_trial_exported_again_keeps_what_the_study_evaluated(
    run_dir: Path, flags: list[str], miou: float | None
):
    command = [str(run_dir), "--trial", "4"]
    assert main(command) == 0
    folder = run_dir / "deploy" / "4"
    classes = [{"name": name, "colour": [1, 2, 3]} for name in "abcde"]
    deep = {**read_bundle(folder)["input"], "range": [400, 19900]}
    engine = {**read_bundle(folder)["engine"], "graph_optimization": "of an older version"}
    update_bundle(folder, {"classes": classes, "miou": 0.5, "input": deep, "engine": engine})
    assert main([*command, *flags]) == 0
    found = read_bundle(folder)
    assert (found["classes"], found["miou"]) == (classes, miou)
    assert found["input"]["range"] == [400, 19900]


def test_a_trial_is_written_for_onnxruntime_where_its_engine_is_missing(
    run_dir: Path, capsys: pytest.CaptureFixture[str]
):
    metadata = json.loads((run_dir / "metadata.json").read_text())
    metadata["latency"] |= {"engine": "tensorrt", "device": "cuda", "dtype": "float16"}
    (run_dir / "metadata.json").write_text(json.dumps(metadata))
    table = (run_dir / "trials.csv").read_text().splitlines()
    rows = [f"{line},{value}" for line, value in zip(table, ("latency_ms", "3.5", ""), strict=True)]
    (run_dir / "trials.csv").write_text("\n".join(rows))
    assert main([str(run_dir), "--trial", "4"]) == 0
    assert "written for onnxruntime, because tensorrt" in capsys.readouterr().out
    found = read_bundle(run_dir / "deploy" / "4")
    assert (found["engine"]["name"], found["file"]) == ("onnxruntime", "model.onnx")
    assert found["latency_ms"] is None
    update_bundle(run_dir / "deploy" / "4", {"engine": {**found["engine"], "name": "tensorrt"}})
    before = read_bundle(run_dir / "deploy" / "4")
    assert main([str(run_dir), "--trial", "4"]) == 2
    assert "holds the files of tensorrt" in capsys.readouterr().err
    assert read_bundle(run_dir / "deploy" / "4") == before
    output = str(run_dir / "net.onnx")
    assert main([str(run_dir), "--trial", "4", "--output", output]) == 0


@pytest.mark.parametrize(
    ("flags", "latency_ms"),
    [([], 2.5), (["--batch-size", "2"], None), (["--image-size", "64", "64"], None)],
)
def test_a_latency_is_stated_only_for_the_input_that_was_measured(
    run_dir: Path, flags: list[str], latency_ms: float | None
):
    (run_dir / "trials.csv").write_text(
        "trial,state,stage/distilled,network,latency_ms\n4,complete,distilled-a,distilled-a,2.5\n"
    )
    assert main([str(run_dir), "--trial", "4", *flags]) == 0
    description = read_bundle(run_dir / "deploy" / "4")
    assert description["latency_ms"] == latency_ms
    assert description["made"]["run"]["latency_ms"] == 2.5


@pytest.mark.parametrize(
    ("trial", "message"),
    [("7", "has no trial 7; it has 4, 5"), ("5", "trial 5 (state pruned) has no network")],
)
def test_a_trial_without_a_network_is_named(
    run_dir: Path, trial: str, message: str, capsys: pytest.CaptureFixture[str]
):
    assert main([str(run_dir), "--trial", trial]) == 2
    assert message in capsys.readouterr().err


def test_the_command_exports_a_stage(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "net.onnx"
    flags = ["--output", str(path), "--image-size", "65", "96", "--normalize"]
    assert main([str(checkpoint.parent), *flags]) == 0
    assert "uint8 RGB images (1, 3, 65, 96) -> logits (1, 5, 65, 96)" in capsys.readouterr().out
    notes = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert notes == {"network": "fast_scnn", "classes": '["a", "b", "c", "d", "e"]'}
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 65, 96), np.uint8))
    with torch.no_grad():
        expected = export.load_checkpoint(checkpoint)(normalize(images))
    torch.testing.assert_close(run_file(path, images), expected, rtol=1e-3, atol=1e-4)


def test_the_file_normalises_as_the_network_does(tmp_path: Path) -> None:
    name = "tests.models.foreign_networks:Plain"
    model = create_model(name, num_classes=3).eval()
    model.normalization = Normalization(
        mean=(90.0, 100.0, 110.0), std=(50.0, 60.0, 70.0), scale=1.0, channel_order="bgr"
    )
    save_checkpoint(tmp_path / "a.safetensors", model)
    flags = ["--output", str(tmp_path / "a.onnx"), "--image-size", "64", "64", "--normalize"]
    assert main([str(tmp_path / "a.safetensors"), *flags, "--factory", name]) == 0
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (1, 3, 64, 64), np.uint8))
    with torch.no_grad():
        expected = model(model.normalization(images))
    torch.testing.assert_close(
        run_file(tmp_path / "a.onnx", images), expected, rtol=1e-3, atol=1e-4
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["nowhere"], "nowhere is not a file"),
        (["text"], "text is not a complete safetensors file"),
        (["good", "--image-size", "63", "64"], "at least 64, got (63, 64)"),
        (["good", "--opset", "9"], "11 to 23, got 9"),
        (["good", "--output", "."], "path must be that of a file, got the folder ."),
        (["good", "--image-size", "0", "0"], "--output and --image-size are required"),
        ([".", "--trial", "4"], "is not the folder of a run: it has no trials.csv"),
    ],
)
def test_the_command_says_what_is_wrong(
    checkpoint: Path, flags: list[str], message: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("good").symlink_to(checkpoint)
    Path("text").write_text("no checkpoint")
    assert main(["--output", "net.onnx", "--image-size", "64", "64", *flags]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert message in output.err
    assert not Path("net.onnx").exists()
