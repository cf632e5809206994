"""What only a real Ray can show: a stage that hangs, and who can reach a local session."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from tensorboardX.proto.event_pb2 import Event

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def ended(
    run_script: Callable[..., SimpleNamespace], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    """One run of the script for all tests: Ray takes its time to start."""
    folder = tmp_path_factory.mktemp("run")
    return run_script("hanging_study.py", folder, "3", timeout=290)


def test_stage_that_hangs_is_tried_again_then_failed_and_the_study_goes_on(
    ended: SimpleNamespace,
) -> None:
    where = "stalls/sparse-lambda-0.001.txt"
    reason = f"no progress for 3 s at step 3 of 9 ({where} shows where it hung)"
    complete = ["complete", ""]
    assert ended.answer["outcomes"] == [
        ["failed", f"sparse: {reason}; tried 3 times"],
        complete,
        complete,
    ]
    assert "in run_stage" in (ended.folder / where).read_text()
    attempts = (ended.folder / "attempts").read_text().splitlines()
    assert attempts.count("sparse 0.001") == 3
    assert attempts.count("sparse 1e-05") == 1
    assert attempts.count("distilled 1e-05") == 2
    for seconds in (1, 5):
        assert f"sparse lambda 0.001 is run again in {seconds} s: {reason}" in ended.errors


def test_dashboard_shows_what_every_process_computes(ended: SimpleNamespace) -> None:
    assert {"PipelineStage", "ray::sparse-lambda-0.001"} <= set(ended.answer["names"])


def test_local_session_listens_on_loopback_only_and_wants_its_token(ended: SimpleNamespace) -> None:
    assert ended.answer["dashboard"] == ["127.0.0.1", 401]
    loopback = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}
    assert ended.answer["addresses"]
    assert set(ended.answer["addresses"]) <= loopback


def read_scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Points (step, value) of every curve that TensorBoard finds in a folder."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for path in folder.glob("events.out.tfevents.*"):
        content, position = path.read_bytes(), 0
        while position < len(content):  # length, its checksum, event, its checksum
            (length,) = struct.unpack_from("<Q", content, position)
            event = Event.FromString(content[position + 12 : position + 12 + length])
            position += length + 16
            for value in event.summary.value:
                if value.HasField("simple_value"):
                    points = curves.setdefault(value.tag, [])
                    points.append((event.step, value.simple_value))
    return curves


def test_tensorboard_draws_loss_and_accuracy_over_the_steps_of_a_stage(
    ended: SimpleNamespace,
) -> None:
    curves = read_scalars(ended.folder / "tune" / "session-1" / "distilled-1")
    assert curves["ray/tune/progress/loss"] == [(3, 0.75)]
    assert curves["ray/tune/progress/miou"] == [(3, 0.5)]
    assert curves["ray/tune/metrics/miou"] == [(3, 0.5)]
