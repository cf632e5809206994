"""What a user takes away runs without this project, and says what it is."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from models import create_model
from models.deployment.bundle import BundleContent, copy_bundle, draw_colors, is_bundle, read_bundle
from models.deployment.predict import read_image
from models.deployment.run_folder import find_network_folder
from models.engines import ENGINES, FileEngine
from models.export import export_bundle
from models.normalization import Normalization, Normalize

NORMALIZATION = Normalization(mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))
# The names of what the user's machine need not have.
BLOCKED = "torch torchvision models trainables search analysis onnx pandas"
RUN_BLOCKED = """
import runpy, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked")

BLOCKED = sys.argv.pop(1).split()
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
ENGINE_NAMES = [
    "onnxruntime",
    pytest.param(
        "openvino",
        marks=pytest.mark.skipif(find_spec("openvino") is None, reason="openvino is not installed"),
    ),
]


def write(folder: Path, engine_name: str, batch_size: int = 1) -> torch.nn.Module:
    torch.manual_seed(0)
    model = create_model("fast_scnn", num_classes=4).eval()
    engine = ENGINES[engine_name]
    assert isinstance(engine, FileEngine)
    content = BundleContent(
        classes=list("abcd"), normalization=NORMALIZATION, miou=0.5, latency_ms=3.0,
        colors=["#000000", "#ff0000", "#00ff00", "#0000ff"], made={"trial": 4},
        value_range=(0, 4095),
    )  # fmt: skip
    export_bundle(model, folder, content, image_size=(64, 96), engine=engine, batch_size=batch_size)
    return model


@pytest.mark.parametrize("engine_name", ENGINE_NAMES)
def test_predict_runs_where_pytorch_is_not(engine_name: str, tmp_path: Path):
    folder = tmp_path / "taken away"
    model = write(folder, engine_name)
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png")
    script = [str(folder / "predict.py"), "in.png", "out.png"]
    command = [sys.executable, "-c", RUN_BLOCKED, BLOCKED, *script]
    ended = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=100, env={"PATH": ""}
    )
    assert ended.returncode == 0, ended.stderr
    mask = Image.open(tmp_path / "out.png")
    images = torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy())
    with torch.no_grad():
        classes = model(Normalize(NORMALIZATION)(images)).argmax(dim=1)[0].numpy()
    assert np.mean(np.asarray(mask) == classes) > 0.999
    colors = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    assert np.mean(np.asarray(mask.convert("RGB")) == colors[classes]) > 0.999


def test_the_script_is_short_and_the_guard_works(tmp_path: Path):
    write(tmp_path, "onnxruntime")
    assert len((tmp_path / "predict.py").read_text().splitlines()) < 80
    (tmp_path / "bad.py").write_text("import torch")
    command = [sys.executable, "-c", RUN_BLOCKED, BLOCKED, str(tmp_path / "bad.py")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "torch is blocked" in ended.stderr


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_photo_of_another_size_gets_a_mask_of_its_size(batch_size: int, tmp_path: Path):
    write(tmp_path, "onnxruntime", batch_size)
    Image.new("L", (130, 70), 90).save(tmp_path / "in.png")
    command = [sys.executable, str(tmp_path / "predict.py"), "in.png", "out.png"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=100)
    assert Image.open(tmp_path / "out.png").size == (130, 70)


def test_a_turned_photo_is_read_upright(tmp_path: Path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.new("RGB", (130, 70)).save(tmp_path / "in.jpg", exif=exif)
    assert read_image(str(tmp_path / "in.jpg"), None).size == (70, 130)


def test_a_deep_image_is_scaled_by_the_range_of_the_training(tmp_path: Path):
    path = str(tmp_path / "in.png")
    Image.fromarray(np.array([[100, 200], [300, 999]], np.uint16)).save(path)
    pixels = np.asarray(read_image(path, [100, 300]))
    assert pixels[..., 0].tolist() == [[0, 128], [255, 255]]
    with pytest.raises(SystemExit, match="has more than 8 bits: scale its values to 0"):
        read_image(path, None)


def test_a_bundle_says_what_it_is(tmp_path: Path):
    write(tmp_path / "first", "onnxruntime")
    copy_bundle(tmp_path / "first", tmp_path / "second", {"miou": 0.7})
    assert is_bundle(tmp_path / "second")
    assert not is_bundle(tmp_path)
    names = sorted(path.name for path in (tmp_path / "second").iterdir())
    assert names == ["model.json", "model.onnx", "predict.py"]
    found = read_bundle(tmp_path / "second")
    assert (found["miou"], found["latency_ms"], found["made"]) == (0.7, 3.0, {"trial": 4})
    assert found["engine"]["name"] == "onnxruntime"
    assert found["input"]["shape"] == [1, 3, 64, 96]
    assert found["input"]["range"] == [0, 4095]
    assert found["output"]["shape"] == [1, 4, 64, 96]
    assert found["classes"][1] == {"name": "b", "colour": [255, 0, 0]}
    assert found["normalization"]["mean"] == [0.5, 0.4, 0.3]
    json.dumps(found, allow_nan=False)


def test_colors_differ_and_are_as_many_as_the_classes():
    assert len(set(draw_colors(150))) > 140
    assert len(set(draw_colors(19))) == 19
    with pytest.raises(ValueError, match="got 1 for 2"):
        BundleContent(classes=("a", "b"), colors=("#ffffff",), normalization=NORMALIZATION)


def test_what_a_trial_ended_with_is_found(tmp_path: Path):
    for name, file in [("dense-a", "checkpoint.safetensors"), ("quantised-b", "model.json")]:
        (tmp_path / name).mkdir()
        (tmp_path / name / file).touch()
    (tmp_path / "latency-c").mkdir()
    names = ["dense-a", "quantised-b", "latency-c", "dense-a"]
    assert find_network_folder(tmp_path, names) == tmp_path / "quantised-b"
    assert find_network_folder(tmp_path, ["dense-a", "latency-c"]) == tmp_path / "dense-a"
    assert find_network_folder(tmp_path, ["latency-c"]) is None
