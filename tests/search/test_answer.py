"""Which networks are kept out of the answer, and which are only not deployed yet."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from models.engines import EngineError
from models.engines.onnx_graph import ExportError
from models.timing.host import HostError
from search.config import StudyConfig
from search.pipelines.records import TrialRecord
from search.run_files.answer import (
    add_findings,
    deploy_front,
    read_kept_out,
    write_pictures_and_scores,
)
from trainables.context import StageContext
from trainables.data import DataError


@pytest.fixture
def study() -> Any:
    record = TrialRecord(
        number=0, state="complete", settings={}, metrics={"miou": 0.5, "num_params": 9.0}
    )
    return SimpleNamespace(
        records={0: record}, config=StudyConfig(objectives=("miou", "num_params"))
    )


@pytest.mark.parametrize(
    ("error", "is_kept_out"),
    [
        (ExportError("no such operator"), True),
        (EngineError("no such operator"), True),
        (HostError("the host is away"), False),
        (DataError("an image is damaged"), False),
        (RuntimeError("CUDA out of memory"), False),
        (OSError("the disk is full"), False),
        (MemoryError("the image is too large"), False),
    ],
)
def test_only_faults_of_the_network_keep_it_out(
    error: Exception,
    is_kept_out: bool,
    study: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: Any, device: str, **more: Any) -> None:
        assert device == "cuda"  # that of the study's latencies; this machine may have no GPU
        raise error

    monkeypatch.setattr("search.run_files.answer.deploy_network", fail)
    half = tmp_path / "deploy" / "0"  # model.json came into storage, but the machine was lost then
    half.mkdir(parents=True)
    (half / "model.json").write_text(json.dumps({"files": ["model.onnx"]}))
    (tmp_path / "metadata.json").write_text(json.dumps({"latency": {"device": "cuda"}}))
    kept_out, notes = deploy_front(study, tmp_path, StageContext(cache_dir=tmp_path))
    assert list(kept_out) == [0] * is_kept_out
    assert read_kept_out(tmp_path) == kept_out
    assert len(notes) == (not is_kept_out)
    assert all(str(error) in text for text in (*kept_out.values(), *notes))


@pytest.mark.parametrize(
    "error",
    [
        DataError("an image is damaged"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory"),
        MemoryError("the image is too large"),
        OSError("the disk is full"),
    ],
)
def test_pictures_and_scores_that_fail_are_a_note(
    error: Exception, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any, **more: Any) -> None:
        raise error

    monkeypatch.setattr("search.run_files.answer.write_predictions", fail)
    context = StageContext(cache_dir=tmp_path)
    (note,) = write_pictures_and_scores(study, tmp_path, context, test=True)
    assert str(error) in note


def test_what_an_earlier_answer_noted_goes(tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps({"dataset": {"warnings": ["few images"]}, "warnings": []}))
    add_findings(tmp_path, {"sensitivity": "much"}, ["few images", "trial 3 is not deployed"])
    assert json.loads(path.read_text())["warnings"] == ["few images", "trial 3 is not deployed"]
    add_findings(tmp_path, {}, ["trial 4 is not deployed"])
    content = json.loads(path.read_text())
    assert content["warnings"] == ["few images", "trial 4 is not deployed"]
    assert content["sensitivity"] == "much"
