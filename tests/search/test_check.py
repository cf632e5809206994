"""`--check`: everything is looked at, every problem is named, nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models import create_model
from search.config import StudyConfig
from search.forecast.typical_chains import choose_typical_chains
from search.run import main
from trainables.rehearsal import StageRate, name_kind

SMALL = [
    "--pipeline.data.size", "64", "96", "--pipeline.data.num-samples", "8",
    "--pipeline.data.augmentation.crop-size", "64", "64",
    "--pipeline.teacher.width", "0.125", "--pipeline.student.width", "0.125",
]  # fmt: skip


def check(tmp_path: Path, *flags: str) -> int:
    folders = ["--output-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache")]
    return main(["streets", "--check", "--no-estimate", *folders, *flags])


def test_a_good_study_is_described(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(tmp_path, *SMALL) == 0
    output = " ".join(capsys.readouterr().out.split())
    for text in ("6 training", "19 classes: road", "pruned by half", "measured in onnxruntime"):
        assert text in output or text == "6 training"
    assert "nothing was trained; the study can be run" in output
    assert (tmp_path / "runs" / "streets-check.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["streets-check.png"]


def test_every_problem_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = ["--pipeline.student.backbone", "resnet1", "--pipeline.latency.engine", "tensorrt"]
    wrong += ["--pipeline.latency.batch-size", "2"]
    wrong += ["--pipeline.chain", "dense", "sparse", "pruned", "distilled", "quantised"]
    assert check(tmp_path, *SMALL, *wrong) == 2
    output = " ".join(capsys.readouterr().out.split())
    assert "problem: student: " in output
    assert "problem: engine: " in output
    assert "problem: stages: stage quantised measures files that take 1 image" in output
    assert "3 problems" in output


def test_weights_that_know_nothing_of_the_data_are_doubted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model = create_model("fast_scnn", 19)
    with torch.no_grad():  # always answers the rarest class
        for parameter in model.parameters():
            parameter.zero_()
    save_file(model.state_dict(), tmp_path / "net.safetensors")
    flags = ["--student", "fast_scnn", "--student-weights", str(tmp_path / "net.safetensors")]
    assert check(tmp_path, *SMALL[:8], *flags, "--teacher", "same") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "% mIoU with the given weights" in output
    assert "look at: " in output


def test_it_is_said_what_the_study_will_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_stages(config: StudyConfig, *machine: Any) -> tuple[dict[str, StageRate], list[str]]:
        chains = choose_typical_chains(config)
        parts = [chain[:n] for chain in chains for n in range(1, len(chain) + 1)]
        return {name_kind(part): StageRate(fixed_seconds=10.0) for part in parts}, ["not all"]

    monkeypatch.setattr("search.check.time_stages", time_stages)
    flags = ["--estimate", "--cpus-per-trial", "1", "--max-concurrent", "1", "--time-limit", "10m"]
    flags += ["--price-per-hour", "6", "--num-pipelines", "3"]
    assert check(tmp_path, *SMALL, *flags) == 0
    output = " ".join(capsys.readouterr().out.split())
    # Two networks and their latencies, a scan, one sparse network, three stages for each pipeline.
    assert (
        "time: estimate: 2:30 (teacher 0:20, dense 0:30, 3 pipelines 1:40, 1 at a time), "
        "0.0417 worker-hours, cost 0.25; not all"
    ) in output
