"""A run folder with tiny networks of random weights."""

from __future__ import annotations

import json

import pytest
import torch

from models import create_model
from models.checkpoint import save_checkpoint
from trainables.context import StageContext
from trainables.data_source import DataConfig
from trainables.process.device_lock import DeviceLock

DATA = DataConfig(size=(64, 96), num_samples=24)
HEADER = (
    "trial,state,miou,latency_ms,stage/dense,stage/pruned,stage/latency,stage/distilled,network\n"
)
ROWS = (
    "0,complete,0.30,9.0,dense-a,pruned-0,latency-0,distilled-0,distilled-0\n"
    "1,complete,0.20,5.0,dense-a,pruned-1,latency-1,distilled-1,distilled-1\n"
    "2,complete,0.10,8.0,dense-a,pruned-2,latency-2,distilled-2,distilled-2\n"
    "3,failed,,,dense-a,,,,\n"
)


@pytest.fixture
def context(tmp_path):
    locks = DeviceLock("cpu", tmp_path / "locks")
    return StageContext(cache_dir=tmp_path / "cache", num_threads=1, device_lock=locks)


@pytest.fixture
def run_dir(tmp_path):
    folder = tmp_path / "run"
    num_classes = DATA.open("val").num_classes
    for seed, stage in enumerate(("teacher-t", "dense-a", "distilled-0", "distilled-1")):
        torch.manual_seed(seed)
        network = create_model("fast_scnn", num_classes=num_classes)
        save_checkpoint(folder / "stages" / stage / "checkpoint.safetensors", network)
    objectives = [
        {"name": "miou", "direction": "maximize"},
        {"name": "latency_ms", "direction": "minimize"},
    ]
    baselines = [
        {"name": "teacher", "role": "teacher", "stage": "teacher-t"},
        {"name": "dense", "role": "student", "stage": "dense-a"},
    ]
    metadata = {"objectives": objectives, "baselines": baselines}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / "trials.csv").write_text(HEADER + ROWS)
    data = {"name": "synthetic", "size": [64, 96], "num_samples": 24}
    config = {"pipeline": {"data": data}, "cache_dir": str(tmp_path / "cache")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder
