"""A trial that ends with files is shown and scored by them, in their engine."""

from __future__ import annotations

import json
from dataclasses import replace

import pandas as pd
import pytest
import torch

from models import create_model
from models.deployment.bundle import BundleContent, read_bundle
from models.engines import ENGINES, EngineSettings
from models.export import export_bundle
from models.normalization import Normalization
from trainables.learning.file_evaluation import evaluate_predictions
from trainables.predicting.open_network import NetworkError, open_network
from trainables.predicting.run_networks import find_networks
from trainables.predictions import write_predictions

from .conftest import DATA


@pytest.fixture
def files(run_dir):
    """Files of another network than the checkpoint's, as those of trial 0."""
    folder = run_dir / "stages/quantised-0"
    torch.manual_seed(9)
    dataset = DATA.open("val")
    network = create_model("fast_scnn", num_classes=dataset.num_classes).eval()
    content = BundleContent(classes=dataset.classes, normalization=Normalization())
    export_bundle(
        network, folder, content, image_size=(64, 96), engine=ENGINES["onnxruntime"],
        settings=EngineSettings(num_threads=1),
    )  # fmt: skip
    table = pd.read_csv(run_dir / "trials.csv")
    table["stage/quantised"] = ["quantised-0", None, None, None]
    table.to_csv(run_dir / "trials.csv", index=False)
    return folder


def test_files_are_run_instead_of_their_network(run_dir, files, context):
    assert write_predictions(run_dir, DATA, context) == []
    session = ENGINES["onnxruntime"].load(
        files / "model.onnx", (1, 3, 64, 96), EngineSettings(num_threads=1)
    )
    table = pd.read_csv(run_dir / "test.csv").set_index("network")
    assert table.loc["trial-0", "stage"] == "quantised-0"
    expected = evaluate_predictions(session.run, DATA.open("test"), (64, 96))
    assert table.loc["trial-0", "miou"] == expected.miou
    index = json.loads((run_dir / "pictures/index.json").read_text())
    shown = {network["name"]: network for network in index["networks"]}
    expected = evaluate_predictions(session.run, DATA.open("val"), (64, 96))
    assert shown["trial-0"]["miou"] == round(expected.miou, 5)
    assert shown["trial-1"]["stage"] == "distilled-1"
    for image in index["images"]:
        assert (run_dir / "pictures" / image["predictions"]["trial-0"]).is_file()


def test_files_of_a_missing_engine_are_a_note(run_dir, files, context):
    description = read_bundle(files)
    description["engine"]["name"] = "none"
    (files / "model.json").write_text(json.dumps(description))
    network = next(each for each in find_networks(run_dir) if each.trial == 0)
    with pytest.raises(NetworkError, match="its files cannot be run"):
        open_network(network, context)
    notes = write_predictions(run_dir, DATA, context)
    assert len([note for note in notes if "trial-0" in note]) == 2


def test_files_that_were_measured_on_a_cpu_run_there_in_a_gpu_study(run_dir, files, context):
    network = next(each for each in find_networks(run_dir) if each.trial == 0)
    expected = open_network(network, context)(DATA.open("val"), indices=[0])
    evaluate = open_network(network, replace(context, device="cuda"))
    assert evaluate(DATA.open("val"), indices=[0]).miou == expected.miou
