"""The last stage: files whose accuracy and latency are those of the engine."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.checkpoint import load_checkpoint
from models.deployment.bundle import is_bundle, read_bundle
from models.engines import ENGINES, EngineSettings
from trainables import deployment
from trainables.artifacts.store import ArtifactStore
from trainables.chain import check_stages, make_chain
from trainables.deployment import deploy_network
from trainables.learning.file_evaluation import (
    evaluate_predictions,
    evaluate_session,
    resize_image,
)
from trainables.pipeline import build_stages, run_pipeline
from trainables.pipeline_config import Int8Config
from trainables.stages import deployed_file
from trainables.stages.deployed_file import ParityError
from trainables.stages.quantised import QuantisedSettings, QuantisedStage
from trainables.stages.rounded_training import train_with_rounding

STAGES = ("dense", "quantised")
INT8 = Int8Config(max_drop=1.0, num_images=2, num_ranking=1, num_steps=2)


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "stages")


@pytest.fixture
def config(tiny_config):
    latency = replace(tiny_config.latency, engine="auto")
    return replace(tiny_config, chain=STAGES, int8=INT8, latency=latency)


def run(config, store, context, **chosen):
    chain = make_chain(STAGES, **chosen)
    result = run_pipeline(config, chain, store, context)
    return result, store.root / result.stages["quantised"]


def test_a_float_file_is_the_network(config, store, context, tmp_path):
    check_stages(STAGES)
    result, folder = run(config, store, context, precision="float32")
    dense = run_pipeline(config, make_chain(("dense",)), store, context).metrics
    assert result.metrics["miou"] == pytest.approx(dense["miou"], abs=0.001)
    assert result.metrics["latency_ms"] > 0
    assert result.metrics["num_params"] == dense["num_params"]
    assert is_bundle(folder)
    description = read_bundle(folder)
    assert description["engine"]["name"] == "onnxruntime"
    assert description["engine"]["precision"] == "float32"
    assert description["miou"] == result.metrics["miou"]
    # What the stage made is what a user takes away.
    taken = tmp_path / "deploy" / "0"
    found = deploy_network(folder, taken, config, context, device="cpu", results={"trial": 0})
    assert found.passes
    assert read_bundle(taken)["made"]["trial"] == 0
    assert (taken / "model.onnx").read_bytes() == (folder / "model.onnx").read_bytes()
    again, _ = run(config, store, context, precision="float32")
    assert again.seconds == {"dense": 0.0, "quantised": 0.0}


@pytest.mark.parametrize("method", ["ptq", "qat"])
def test_int8_has_an_accuracy_and_a_latency_of_its_own(method, config, store, context):
    result, folder = run(config, store, context, precision="int8", method=method)
    description = read_bundle(folder)
    assert description["engine"]["precision"] == f"int8 ({method})"
    assert description["made"]["kept_float"] == []
    import onnx

    graph = onnx.load(folder / "model.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") > 5
    val = config.data.open_cached("val", context.cache_dir)
    session = ENGINES["onnxruntime"].load(folder / "model.onnx", (1, 3, 64, 96), EngineSettings())
    matrix = evaluate_session(session, val, (64, 96))
    assert matrix.miou == pytest.approx(result.metrics["miou"])
    assert not list(folder.glob("state*"))


@pytest.mark.parametrize("distiller", ["none", "dkd", "cwd"])
def test_qat_learns_from_the_teacher_of_the_pipeline(
    distiller, config, store, context, monkeypatch
):
    stages = ("dense", "sparse", "pruned", "distilled", "quantised")
    config = replace(config, chain=stages)
    taught = []

    def train(model, teaching, *rest):
        taught.append(teaching)
        train_with_rounding(model, teaching, *rest)

    monkeypatch.setattr(deployed_file, "train_with_rounding", train)
    chain = make_chain(stages, distiller=distiller, precision="int8", method="qat")
    result = run_pipeline(config, chain, store, context)
    assert 0 <= result.metrics["miou"] <= 1
    (teaching,) = taught
    if distiller == "none":
        assert teaching is None
    else:
        assert list(teaching.methods) == [distiller]
        assert teaching.teacher.parent.name.startswith("teacher-")


@pytest.mark.skipif(find_spec("nncf") is None, reason="nncf is not installed")
def test_int8_for_openvino(config, store, context):
    config = replace(config, latency=replace(config.latency, engine="openvino"))
    _, folder = run(config, store, context, precision="int8")
    assert read_bundle(folder)["files"] == ["model.xml", "model.bin"]
    assert b"FakeQuantize" in (folder / "model.xml").read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"engine": "pytorch"},
            "pytorch, .* runs none: set --pipeline.latency.engine to one of onn",
        ),
        ({"batch_size": 4}, "set --pipeline.latency.batch-size 1, got 4"),
    ],
)
def test_a_latency_that_files_cannot_have_is_refused_before_any_training(
    changes, message, config, store, context
):
    config = replace(config, latency=replace(config.latency, **changes))
    with pytest.raises(ValueError, match=message):
        QuantisedStage.check(QuantisedSettings(), config, "cpu")
    with pytest.raises(ValueError, match=message):
        build_stages(config, make_chain(STAGES))[-1].obtain(store, context)
    assert not list(store.root.glob("dense-*"))


def test_a_file_that_does_something_else_is_kept_out(config, store, context, monkeypatch):
    monkeypatch.setattr(deployed_file, "MAX_DIFFERENCE", -1.0)
    with pytest.raises(ParityError, match=r"the exported file has \d+\.\d+ % mIoU in onnxruntime"):
        run(config, store, context, precision="float32")


def test_a_network_is_deployed_and_judged(config, store, context, tmp_path, monkeypatch):
    (stage,) = build_stages(config, make_chain(("dense",)))
    folder = stage.obtain(store, context).folder
    found = deploy_network(
        folder,
        tmp_path / "7",
        config,
        context,
        device="cpu",
        results={"trial": 7, "latency_ms": 2.5},
    )
    assert found.passes
    description = read_bundle(found.folder)
    assert (description["latency_ms"], description["miou"]) == (2.5, found.miou)
    assert description["made"] == {"stage": folder.name, "trial": 7, "latency_ms": 2.5}
    monkeypatch.setattr(
        deployment, "evaluate_session", lambda *_: type("Matrix", (), {"miou": 0.99})
    )
    wrong = deploy_network(folder, tmp_path / "8", config, context, device="cpu", results={})
    assert not wrong.passes
    assert "99.00 % mIoU in onnxruntime" in wrong.explain()
    assert [path.name for path in tmp_path.glob("[78]*")] == ["7"]


@pytest.mark.parametrize(
    ("changes", "device", "has_latency"),
    [
        ({}, "cpu", True),
        ({"batch_size": 4}, "cpu", False),  # the latency is that of four images
        ({}, "cuda", False),  # the trials had GPUs, but this machine has none
        ({"engine": "onnxruntime"}, "cuda", False),
        ({"engine": "tensorrt"}, "cuda", False),
        ({"engine": "pytorch"}, "cpu", False),
        pytest.param(
            {"engine": "openvino"},
            "cpu",
            True,
            marks=pytest.mark.skipif(find_spec("openvino") is None, reason="no openvino"),
        ),
    ],
)
def test_a_file_has_a_latency_only_if_it_was_measured(
    changes, device, has_latency, config, store, context, tmp_path
):
    config = replace(config, latency=replace(config.latency, **changes))
    (stage,) = build_stages(config, make_chain(("dense",)))
    folder = stage.obtain(store, context).folder
    gpu = replace(context, device="cuda")  # as detected here, whatever the study used
    results = {"latency_ms": 2.5}
    found = deploy_network(folder, tmp_path / "7", config, gpu, device=device, results=results)
    assert found.passes
    description = read_bundle(found.folder)
    assert description["engine"]["provider"].startswith("CPU")
    assert description["latency_ms"] == (2.5 if has_latency else None)


def test_answers_at_another_size_are_resized_back(config, context):
    val = config.data.open_cached("val", context.cache_dir)
    sizes = []

    def predict(images):
        sizes.append(images.shape)
        logits = np.zeros((1, val.num_classes, 32, 48), np.float32)
        logits[:, 1] = 1
        return logits

    matrix = evaluate_predictions(predict, val, (32, 48))
    assert set(sizes) == {(1, 3, 32, 48)}
    labels = torch.cat([target.flatten() for _, target in val])
    assert matrix.counts[:, 1].sum() == (labels != 255).sum()
    image = val[0].image.numpy()
    picture = Image.fromarray(image.transpose(1, 2, 0)).resize((48, 32), Image.Resampling.BILINEAR)
    assert np.array_equal(resize_image(image, (32, 48)).transpose(1, 2, 0), np.asarray(picture))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "int4"}, "precision must be one of float32, int8"),
        ({"precision": "float32+int8"}, "precision must be float32 or int8"),
    ],
)
def test_settings_say_what_is_allowed(given, message):
    with pytest.raises(ValueError, match=message):
        QuantisedSettings(**given)


def test_a_checkpoint_is_left_as_it_was(config, store, context):
    (stage,) = build_stages(config, make_chain(("dense",)))
    path = Path(stage.obtain(store, context).checkpoint)
    before = path.read_bytes()
    run(config, store, context, precision="int8")
    assert path.read_bytes() == before
    load_checkpoint(path)
