"""A library function leaves the settings of its process as they were."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models import create_model
from models.checkpoint import save_checkpoint
from trainables import run as stage_command
from trainables.chain import make_chain
from trainables.context import StageContext
from trainables.data import AugmentationConfig, TrainingStream, create_dataset
from trainables.learning.evaluation import evaluate
from trainables.learning.teacher_cache import TeacherLogitsConfig, cache_teacher
from trainables.learning.training import TrainConfig, train
from trainables.pipeline_config import PipelineConfig
from trainables.process import memory
from trainables.process.installation import Installation
from trainables.process.machine_errors import SurroundingsError
from trainables.ray_pipeline import WorkerConfig, describe_task, make_trainable

OWN_THREADS = 3


@pytest.fixture
def asked_of_the_c_library(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str | None]]:
    """What is loaded to change the memory allocator; nothing is changed."""
    asked: list[str | None] = []

    def load(name: str | None) -> object:
        asked.append(name)
        return object()

    monkeypatch.setattr(memory.ctypes, "CDLL", load)
    memory.keep_freed_memory.cache_clear()
    yield asked
    memory.keep_freed_memory.cache_clear()


@pytest.fixture
def own_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(OWN_THREADS)
    yield
    torch.set_num_threads(before)


class Network(torch.nn.Module):
    """Notes how many threads there are when it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.network = create_model("dual_branch", backbone="tu-resnet18", width=0.125)
        self.seen: set[int] = set()

    def forward(self, images: Tensor) -> Tensor:
        self.seen.add(torch.get_num_threads())
        output: Tensor = self.network(images)
        return output


@pytest.mark.usefixtures("own_threads")
@pytest.mark.parametrize("num_threads", [1, 2, None])
def test_stages_use_their_threads_and_leave_memory_and_threads_alone(
    context: StageContext,
    tmp_path: Path,
    asked_of_the_c_library: list[str | None],
    num_threads: int | None,
) -> None:
    context = replace(context, num_threads=num_threads)
    dataset = create_dataset("synthetic", size=(64, 96), num_samples=2)
    stream = TrainingStream(dataset, AugmentationConfig(crop_size=(64, 64)), seed=3)
    network = Network()
    evaluate(network, dataset, context)
    config = TrainConfig(num_steps=1, batch_size=2)
    train(network, stream, config, name="a", state_path=tmp_path / "state", context=context)
    (tmp_path / "teacher").mkdir()
    checkpoint = tmp_path / "teacher" / "checkpoint.safetensors"
    save_checkpoint(checkpoint, create_model("dual_branch", backbone="tu-resnet18", width=0.125))
    cache_teacher(checkpoint, dataset, context, TeacherLogitsConfig(), precision="float32")
    assert network.seen == {num_threads or OWN_THREADS}
    assert torch.get_num_threads() == OWN_THREADS
    assert asked_of_the_c_library == []


@pytest.mark.usefixtures("own_threads")
def test_threads_are_given_back_when_a_stage_fails(context: StageContext) -> None:
    broken = torch.nn.Conv2d(4, 2, 1)
    dataset = create_dataset("synthetic", size=(64, 96), num_samples=1)
    with pytest.raises(RuntimeError, match="channels"):
        evaluate(broken, dataset, context)
    assert torch.get_num_threads() == OWN_THREADS


def test_a_command_keeps_freed_memory_once(asked_of_the_c_library: list[str | None]) -> None:
    for _ in range(2):
        flags = ["--pipeline.data.name", "camvid", "--data-root", "nowhere"]
        assert stage_command.main(["dense", *flags]) == 2
    assert len(asked_of_the_c_library) == 1


def test_a_worker_keeps_freed_memory_once(
    tmp_path: Path, asked_of_the_c_library: list[str | None]
) -> None:
    worker = WorkerConfig(
        stages_dir=tmp_path / "stages",
        stalls_dir=tmp_path / "stalls",
        cache_dir=tmp_path / "cache",
        checkpoint_seconds=1.0,
        device="cpu",
        num_threads=1,
        num_threads_root=1,
        installation=Installation(source_hash="of another node"),  # ends each trial at once
    )
    run_trial = make_trainable(PipelineConfig(), worker)
    for _ in range(2):
        with pytest.raises(SurroundingsError, match="of another node"):
            run_trial(describe_task(make_chain(["dense"]), "dense"))
    assert len(asked_of_the_c_library) == 1
