"""What only a real Ray can show: a stage that hangs, and who can reach a local session."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[2]

SCRIPT = Path(__file__).with_name("hanging_study.py")


@dataclass(frozen=True)
class Ended:
    folder: Path
    answer: dict[str, Any]
    errors: str


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """One run of the script for all tests: Ray takes its time to start."""
    folder = tmp_path_factory.mktemp("run")
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
    process = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder), "3"],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=290,
    )
    assert process.returncode == 0, process.stderr
    return Ended(folder, json.loads(process.stdout.splitlines()[-1]), process.stderr)


def test_stage_that_hangs_is_tried_again_then_failed_and_the_study_goes_on(ended: Ended) -> None:
    where = "stalls/sparse-lambda-0.001.txt"
    reason = f"no progress for 3 s at step 3 of 9 ({where} says where it hung)"
    complete = ["complete", ""]
    assert ended.answer["outcomes"] == [["failed", f"sparse: {reason}"], complete, complete]
    assert "in run_stage" in (ended.folder / where).read_text()
    attempts = (ended.folder / "attempts").read_text().splitlines()
    assert attempts.count("sparse 0.001") == 3
    assert attempts.count("sparse 1e-05") == 1
    assert attempts.count("distilled 1e-05") == 2
    assert ended.errors.count(f"sparse lambda 0.001 is run again: {reason}") == 2


def test_local_session_listens_on_loopback_only_and_wants_its_token(ended: Ended) -> None:
    assert ended.answer["dashboard"] == ["127.0.0.1", 401]
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert ended.answer["addresses"]
    assert set(ended.answer["addresses"]) <= loopback
