from dataclasses import replace

import pytest

from trainables.context import StageContext
from trainables.data import AugmentationConfig, TrainingStream, create_dataset
from trainables.data_source import DataConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import LatencyConfig, PipelineConfig
from trainables.process.device_lock import DeviceLock

SMALL = NetworkConfig(name="dual_branch", backbone="tu-resnet18", width=0.125)


@pytest.fixture
def tiny_config():
    """A pipeline of a few steps on a few synthetic images."""
    training = TrainConfig(num_steps=4, batch_size=2)
    return PipelineConfig(
        data=DataConfig(
            size=(64, 96), num_samples=8, augmentation=AugmentationConfig(crop_size=(64, 64))
        ),
        teacher=SMALL,
        student=SMALL,
        teacher_training=training,
        dense=training,
        sparse=replace(training, num_steps=3),
        distil=training,
        latency=LatencyConfig(max_seconds=0.2, engine="pytorch"),  # without an export each time
    )


@pytest.fixture
def context(tmp_path):
    return StageContext(
        cache_dir=tmp_path / "cache",
        num_threads=1,
        device_lock=DeviceLock("cpu", tmp_path / "locks"),
    )


@pytest.fixture
def small_stream():
    """Crops of a few synthetic images."""
    dataset = create_dataset("synthetic", size=(64, 96), num_samples=6)
    return TrainingStream(dataset, AugmentationConfig(crop_size=(64, 64)), seed=3)
