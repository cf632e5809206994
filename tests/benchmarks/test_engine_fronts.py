from __future__ import annotations

import importlib
import json

import pandas as pd
import pytest

from models import create_model
from models.checkpoint import save_checkpoint


@pytest.fixture
def engine_fronts():
    return importlib.import_module("engine_fronts")


def test_members_that_stay_are_counted(engine_fronts):
    rows = [("a", 0.6, 10.0, 10.0), ("b", 0.5, 5.0, 12.0), ("c", 0.4, 6.0, 4.0)]
    table = pd.DataFrame(rows, columns=["network", "miou", "pytorch", "onnxruntime"])
    assert engine_fronts.find_members(table, "pytorch") == {"a", "b"}
    assert engine_fronts.find_members(table, "onnxruntime") == {"a", "c"}
    text = engine_fronts.describe(table, ("pytorch", "onnxruntime"), "here")
    assert "| b | 50.0 | 5.00* | 12.00 |" in text
    assert "| pytorch, onnxruntime | 2 | 2 | 1 | -0.33 |" in text


def test_a_run_is_timed(engine_fronts, tmp_path, capsys):
    for stage, miou in (("dense-a", 0.5), ("distilled-b", 0.4)):
        network = create_model("fast_scnn", num_classes=11)
        path = tmp_path / "stages" / stage / "checkpoint.safetensors"
        save_checkpoint(path, network, {"miou": miou})
    baselines = [{"name": "dense", "stage": "dense-a"}]
    metadata = {"baselines": baselines, "latency": {"resolution": [64, 96]}}
    (tmp_path / "metadata.json").write_text(json.dumps(metadata))
    (tmp_path / "trials.csv").write_text("trial,state,network\n0,complete,distilled-b\n1,failed,\n")
    flags = "--engines pytorch onnxruntime --max-seconds 0.1 --output"
    output = tmp_path / "fronts.md"
    assert engine_fronts.main([str(tmp_path), *flags.split(), str(output)]) == 0
    text = output.read_text()
    assert "| dense | 50.0 |" in text
    assert "| trial 0 | 40.0 |" in text
