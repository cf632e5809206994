"""Checkpoints: the same network again, in any process, or an error that names the file."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import models
from models import MODELS, SegmentationNetwork, create_model, halve
from models.checkpoint import (
    CheckpointError,
    load_checkpoint,
    read_metadata,
    read_structure,
    save_checkpoint,
)
from models.pruning import prune
from models.structure import Structure, build_empty, describe_structure

SMALL: dict[str, dict[str, Any]] = {
    "dual_branch": {"backbone": "tu-resnet18d", "width": 0.25, "auxiliary": True},
    "deeplabv3plus": {"backbone": "mobilenet_v2", "decoder_channels": 32, "dilations": (1, 2, 3)},
    "lraspp_mobilenet_v3_large": {},
    "tbfenet": {},
}
LOAD_ELSEWHERE = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from safetensors.torch import save_file
from models.checkpoint import load_checkpoint
images = torch.linspace(-1, 1, 3 * 64 * 65).reshape(1, 3, 64, 65)
for path in sys.argv[2:]:
    with torch.inference_mode():
        logits = load_checkpoint(path)(images)
    save_file({"logits": logits.contiguous()}, path + ".logits")
"""


@pytest.fixture(scope="module")
def small() -> SegmentationNetwork:
    torch.manual_seed(0)
    return create_model("dual_branch", num_classes=5, backbone="tu-resnet18d", width=0.25)


def test_pruned_networks_load_in_a_process_of_their_own(tmp_path: Path):
    pruned = {}
    for name, kwargs in SMALL.items():
        model = create_model(name, num_classes=5, **kwargs)
        model(torch.randn(2, 3, 64, 64))  # moves the running statistics and their counters
        prune(model, torch.zeros(1, 3, 64, 64), 0.5)
        path = str(tmp_path / f"{name}.safetensors")
        save_checkpoint(path, model)
        pruned[path] = model.eval()

    root = str(Path(models.__file__).parents[1])
    subprocess.run([sys.executable, "-c", LOAD_ELSEWHERE, root, *pruned], check=True, timeout=200)

    for path, model in pruned.items():
        with torch.inference_mode():
            logits = model(torch.linspace(-1, 1, 3 * 64 * 65).reshape(1, 3, 64, 65))
        with safe_open(path + ".logits", framework="pt") as file:
            torch.testing.assert_close(file.get_tensor("logits"), logits)


@pytest.mark.parametrize("name", sorted(MODELS))
def test_tensors_come_back_bit_by_bit(name: str, tmp_path: Path):
    model = create_model(name, num_classes=5, **SMALL.get(name, {}))
    model(torch.randn(2, 3, 64, 64))
    model.to(memory_format=torch.channels_last)
    save_checkpoint(tmp_path / "a.safetensors", model)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    before, after = model.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    for key, tensor in before.items():
        assert tensor.dtype == after[key].dtype
        assert torch.equal(tensor, after[key]), key
    assert any(key.endswith("num_batches_tracked") and t == 1 for key, t in after.items())
    assert not loaded.training
    assert all(p.requires_grad for p in loaded.parameters())
    assert describe_structure(loaded).key == describe_structure(model).key
    assert read_structure(tmp_path / "a.safetensors").key == describe_structure(model).key


def test_loading_never_asks_for_backbone_weights(tmp_path: Path):
    torch.manual_seed(0)
    backbone = create_model("dual_branch", backbone="resnet18", width=0.25).backbone
    save_file(backbone.state_dict(), tmp_path / "weights.safetensors")
    model = create_model(
        "dual_branch", backbone="resnet18", width=0.25,
        backbone_weights=tmp_path / "weights.safetensors",
    )  # fmt: skip
    save_checkpoint(tmp_path / "model.safetensors", model)
    (tmp_path / "weights.safetensors").unlink()
    assert "backbone_weights" not in read_structure(tmp_path / "model.safetensors").kwargs
    load_checkpoint(tmp_path / "model.safetensors")


def test_metadata_come_back(small: SegmentationNetwork, tmp_path: Path):
    metadata = {"miou": 0.625, "classes": ["road", "sky"], "config": {"lr": 1e-3, "note": None}}
    path = tmp_path / "new" / "folder" / "model.safetensors"
    save_checkpoint(path, small, metadata)
    assert read_metadata(path) == metadata
    save_checkpoint(path, small)
    assert read_metadata(path) == {}
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_metadata_must_be_json(small: SegmentationNetwork, tmp_path: Path):
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "x.safetensors", small, {"tensor": torch.zeros(1)})
    with pytest.raises(ValueError, match="JSON"):
        save_checkpoint(tmp_path / "x.safetensors", small, {"miou": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file(
    small: SegmentationNetwork, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, small, {"version": 1})

    def fail(_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save_checkpoint(path, small, {"version": 2})
    assert read_metadata(path) == {"version": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_foreign_networks_are_refused(tmp_path: Path):
    with pytest.raises(ValueError, match=r"models\.create_model, got a Conv2d"):
        save_checkpoint(tmp_path / "x.safetensors", nn.Conv2d(3, 3, 1))


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


def test_unreadable_files_are_named(small: SegmentationNetwork, tmp_path: Path):
    good = tmp_path / "good.safetensors"
    save_checkpoint(good, small)
    header = {
        "format": "segfront",
        "version": "1",
        "structure": describe_structure(small).to_json(),
    }
    other = describe_structure(small).to_json().replace("dual_branch", "unet")
    tensors = {key: t.contiguous() for key, t in small.state_dict().items()}
    short = {k: t for k, t in tensors.items() if not k.startswith("classifier")}

    files = {
        name: tmp_path / f"{name}.safetensors"
        for name in (
            "missing",
            "cut",
            "text",
            "pickle",
            "foreign",
            "newer",
            "short",
            "unknown",
            "broken",
        )
    }
    files["cut"].write_bytes(good.read_bytes()[:-100])
    files["text"].write_text("hello")
    files["pickle"].write_bytes(pickle.dumps(Bomb()))
    save_file(tensors, files["foreign"])
    save_file(tensors, files["newer"], metadata={**header, "version": "2"})
    save_file(short, files["short"], metadata=header)
    save_file(tensors, files["unknown"], metadata={**header, "structure": other})
    save_file(tensors, files["broken"], metadata={**header, "structure": "{"})
    reasons = {
        "missing": "is not a file", "cut": "not a complete", "text": "not a complete",
        "pickle": "not a complete", "foreign": "not a checkpoint of segfront",
        "newer": "version '2'", "short": "classifier.weight", "unknown": "got 'unet'",
        "broken": "broken.safetensors",
    }  # fmt: skip
    for name, reason in reasons.items():
        with pytest.raises(CheckpointError, match=reason) as caught:
            load_checkpoint(files[name])
        assert str(files[name]) in str(caught.value)


def test_structures_of_other_layers_are_refused(small: SegmentationNetwork, tmp_path: Path):
    content = json.loads(describe_structure(small).to_json())
    content["widths"]["detail.0.0"][1] += 1
    header = {"format": "segfront", "version": "1", "structure": json.dumps(content)}
    save_file(small.state_dict(), tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match=r"detail\.0\.0"):
        load_checkpoint(tmp_path / "x.safetensors")
    del content["widths"]["detail.0.0"]
    header["structure"] = json.dumps(content)
    save_file(small.state_dict(), tmp_path / "x.safetensors", metadata=header)
    with pytest.raises(CheckpointError, match=r"differ in the layers \['detail\.0\.0'\]"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_the_key_tells_architectures_apart(small: SegmentationNetwork):
    other, pruned = copy.deepcopy(small), copy.deepcopy(small)
    nn.init.zeros_(other.classifier.weight)
    prune(pruned, torch.zeros(1, 3, 64, 64), 0.5)
    key = describe_structure(small).key
    assert describe_structure(other).key == key != describe_structure(pruned).key
    assert Structure.from_json(describe_structure(pruned).to_json()).key == (
        describe_structure(pruned).key
    )


def test_a_halved_checkpoint_loads_in_float32(small, tmp_path: Path, capsys):
    whole, halved = tmp_path / "whole.safetensors", tmp_path / "halved.safetensors"
    save_checkpoint(whole, small, {"miou": 0.5})
    assert halve.main([str(whole), str(halved)]) == 0
    assert halved.stat().st_size < 0.55 * whole.stat().st_size
    assert str(halved.stat().st_size) in capsys.readouterr().out
    assert read_metadata(halved) == {"miou": 0.5}
    loaded = load_checkpoint(halved).state_dict()
    for key, tensor in load_checkpoint(whole).state_dict().items():
        assert loaded[key].dtype == tensor.dtype
        torch.testing.assert_close(loaded[key], tensor, rtol=1e-3, atol=1e-6)
    assert halve.main([str(tmp_path / "none"), str(halved)]) == 2
    assert "is not a file" in capsys.readouterr().err


def test_values_beyond_float16_are_not_halved(
    small: SegmentationNetwork, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model = copy.deepcopy(small)
    name, norm = next((n, m) for n, m in model.named_modules() if isinstance(m, nn.BatchNorm2d))
    norm.running_var[0] = 1e6
    save_checkpoint(tmp_path / "a.safetensors", model, half=True)
    loaded = load_checkpoint(tmp_path / "a.safetensors").get_submodule(name)
    assert torch.equal(loaded.running_var, norm.running_var)
    assert f"{name}.running_var" in caplog.text


def test_a_checkpoint_of_a_users_network_is_halved_with_its_factory(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    name, path = "tests.models.foreign_networks:Plain", tmp_path / "a.safetensors"
    save_checkpoint(path, create_model(name, num_classes=5))
    monkeypatch.setattr("models.resolving._allowed", set())
    flags = [str(path), str(tmp_path / "b.safetensors")]
    assert halve.main(flags) == 2
    assert "Plain" in capsys.readouterr().err
    assert halve.main([*flags, "--factory", name]) == 0
    load_checkpoint(tmp_path / "b.safetensors", name)


def test_norms_that_an_older_file_does_not_list_keep_their_width():
    name = "tests.models.foreign_networks:InstanceNormed"
    structure = describe_structure(create_model(name, num_classes=5))
    older = {n: w for n, w in structure.widths.items() if n != "network.blocks.1"}
    found = build_empty(Structure(name=name, kwargs=structure.kwargs, widths=older), given=[name])
    assert describe_structure(found) == structure
    del older["network.blocks.0"]
    with pytest.raises(ValueError, match=r"differ in the layers \['network.blocks.0'\]"):
        build_empty(Structure(name=name, kwargs=structure.kwargs, widths=older), given=[name])
