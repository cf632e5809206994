import json
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from trainables.data import AugmentationConfig
from trainables.data_source import DataConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import PipelineConfig


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch):
    """Scripts, not a package: `python benchmarks/x.py` puts their folder on the path itself."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture
def run_dir(tmp_path):
    network = NetworkConfig(name="dual_branch", backbone="tu-resnet18", width=0.125)
    training = TrainConfig(num_steps=1, batch_size=2)
    pipeline = PipelineConfig(
        data=DataConfig(
            size=(64, 64), num_samples=4, augmentation=AugmentationConfig(crop_size=(64, 64))
        ),
        teacher=network,
        student=network,
        teacher_training=training,
        dense=training,
        sparse=training,
        distil=training,
    )
    content = TypeAdapter(PipelineConfig).dump_python(pipeline, mode="json")
    config = {"pipeline": content, "cache_dir": str(tmp_path / "cache")}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path
