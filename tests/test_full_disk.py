"""A disk that fills up: nothing is half-written, and once there is room it goes on."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from models.files.storage import explain_storage_error
from search.config import CONFIG_FILE, save_config
from search.pipelines.study import JOURNAL_FILE, PipelineStudy
from search.recipes import streets
from search.run import main
from search.run_files.results import write_trials
from trainables.artifacts.store import ArtifactStore
from trainables.data import Synthetic, cache_dataset
from trainables.data.teacher_logits import cache_logits
from trainables.learning.training_state import load_training_state, save_training_state
from trainables.pipeline import StageResult

Write = Callable[[Path], object]
KIBIBYTE = 1024


@contextmanager
def filled(disk: Path, free: int) -> Iterator[None]:
    """Leave so many bytes of a disk free meanwhile."""
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(shutil.disk_usage(disk).free - free))
    try:
        yield
    finally:
        ballast.unlink()


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the ballast and locks, which are empty."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "ballast" and path.stat().st_size
    }


def write_table(disk: Path) -> None:
    study = PipelineStudy(replace(streets(), num_pipelines=3), disk.parent)
    while (proposal := study.ask()) is not None:
        study.tell(proposal.number, "failed", reason="x" * 30 * KIBIBYTE)
    write_trials(disk / "trials.csv", study.records.values(), study.config.objectives)


def write_state(disk: Path) -> None:
    model = torch.nn.Linear(100, 200)
    optimizer = torch.optim.SGD(model.parameters())
    save_training_state(disk / "state.safetensors", model, optimizer, {"step": 3})
    assert load_training_state(disk / "state.safetensors", model, optimizer) == {"step": 3}


def publish(disk: Path) -> None:
    result = {"losses": [0.5] * 20 * KIBIBYTE}
    assert ArtifactStore(disk).obtain("dense", "k", lambda folder: result).result == result


def cache_images(disk: Path) -> None:
    assert len(cache_dataset(Synthetic(size=(64, 96), num_samples=5), disk)) == 5


def cache_teacher(disk: Path) -> None:
    dataset = Synthetic(size=(64, 96), num_samples=5)
    content = {"dataset": dataset.fingerprint, "stride": 4}
    logits = cache_logits(dataset, disk, content, lambda index: torch.ones(19, 16, 24))
    assert bool((logits[4] == 1).all())


@pytest.mark.parametrize("write", [write_table, write_state, publish, cache_images, cache_teacher])
def test_nothing_is_half_written(
    write: Write, small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    with filled(small_disk, 40 * KIBIBYTE):
        before = contents(small_disk)
        with monkeypatch.context() as patch:
            # The room goes while the caches are written.
            patch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 2**30))
            with pytest.raises(OSError, match="No space left") as raised:
                write(small_disk)
        assert raised.value.errno == errno.ENOSPC
        assert f"at {small_disk}/" in explain_storage_error(raised.value)
        assert contents(small_disk) == before
    write(small_disk)


def test_a_study_goes_on_where_its_journal_had_no_room(small_disk: Path) -> None:
    config = replace(streets(), num_pipelines=3)
    study = PipelineStudy(config, small_disk)
    first = study.ask()
    assert first is not None
    metrics = {"miou": 0.5, "latency_ms": 5.0, "num_params": 5.0}
    study.tell(first.number, "complete", result=StageResult(metrics=metrics))
    second = study.ask()
    assert second is not None
    journal = (small_disk / JOURNAL_FILE).read_bytes()
    shares = {f"iou/{index}": 0.5 for index in range(4000)}
    with filled(small_disk, 0), pytest.raises(OSError, match=JOURNAL_FILE):
        study.tell(second.number, "complete", result=StageResult(metrics=metrics | shares))
    assert (small_disk / JOURNAL_FILE).read_bytes() == journal
    resumed = PipelineStudy(config, small_disk)
    assert resumed.records[first.number] == study.records[first.number]
    assert resumed.ask() == second
    resumed.tell(second.number, "complete", result=StageResult(metrics=metrics | shares))
    assert PipelineStudy(config, small_disk).num_unfinished == 1


def test_the_command_names_the_full_disk_and_ends_with_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_config(streets(), tmp_path / CONFIG_FILE)

    def fail(run: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "trials.csv"))

    monkeypatch.setattr("search.run.search", fail)
    monkeypatch.setattr("search.run.check_study", lambda *given: SimpleNamespace(warnings=()))
    assert main(["--resume", str(tmp_path)]) == 3
    error = capsys.readouterr().err
    assert f"the disk is full: No space left on device at {tmp_path / 'trials.csv'}" in error
    assert f"then continue with --resume {tmp_path}" in error
