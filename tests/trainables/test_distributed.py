"""Two and three processes come to what one process comes to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from trainables.process.distributed import take_part

ROOT = Path(__file__).parents[2]
EXACT = {"rtol": 1e-9, "atol": 1e-11}
SCRIPT = Path(__file__).with_name("shared_trainings.py")

pytestmark = pytest.mark.xdist_group("shared trainings")  # one run of the script for all


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    """Folder of what one, two and three processes have come to."""
    folder = tmp_path_factory.mktemp("shared")
    command = [sys.executable, str(SCRIPT), str(folder)]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PATH": ""}
    ended = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert ended.returncode == 0, ended.stderr
    return folder


def assert_equal(folder, name, other, **tolerances):
    expected, found = load_file(folder / name), load_file(folder / other)
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(
            found[key], value, **tolerances, msg=lambda text, key=key: f"{other}, {key}: {text}"
        )


@pytest.mark.parametrize("num_processes", [2, 3])
@pytest.mark.parametrize("scenario", ["dense", "distilled"])
def test_processes_train_as_one(outcomes, scenario, num_processes):
    assert_equal(
        outcomes, f"{scenario}-1.safetensors", f"{scenario}-{num_processes}.safetensors", **EXACT
    )


@pytest.mark.parametrize("num_processes", [2, 3])
def test_processes_train_as_one_in_mixed_precision(outcomes, num_processes):
    assert_equal(
        outcomes, "sparse-1.safetensors", f"sparse-{num_processes}.safetensors", rtol=0, atol=5e-3
    )


@pytest.mark.parametrize("num_processes", [2, 3])
def test_every_distiller_has_the_loss_of_the_whole_batch(outcomes, num_processes):
    assert_equal(
        outcomes, "distillers-1.safetensors", f"distillers-{num_processes}.safetensors", **EXACT
    )


@pytest.mark.parametrize("num_processes", [2, 3])
def test_an_evaluation_counts_every_image_once(outcomes, num_processes):
    assert_equal(
        outcomes, "evaluated-1.safetensors", f"evaluated-{num_processes}.safetensors",
        rtol=0, atol=0,
    )  # fmt: skip


@pytest.mark.parametrize("change", ["1-3", "3-2", "2-1"])
def test_a_training_goes_on_with_another_number_of_processes(outcomes, change):
    assert_equal(outcomes, "dense-1.safetensors", f"resumed-{change}.safetensors", **EXACT)


def test_the_loss_of_a_process_ends_the_others_and_nothing_that_was_saved_is_lost(outcomes):
    assert load_file(outcomes / "lost-lost.safetensors")["is_lost"] == 1
    assert_equal(outcomes, "dense-1.safetensors", "resumed-lost-1.safetensors", **EXACT)


@pytest.mark.parametrize(
    ("batch_size", "num_processes", "num_together", "expected"),
    [
        (8, 3, 1, [2, 3, 3]),
        (8, 3, 2, [2, 2, 4]),
        (7, 1, 2, [7]),
        (7, 3, 2, [2, 2, 3]),
        (3, 3, 1, [1, 1, 1]),
    ],
)
def test_a_batch_is_divided_into_neighbouring_parts(
    monkeypatch, batch_size, num_processes, num_together, expected
):
    monkeypatch.setattr("trainables.process.distributed.count_processes", lambda: num_processes)
    parts = []
    for rank in range(num_processes):
        monkeypatch.setattr("trainables.process.distributed.get_rank", lambda rank=rank: rank)
        parts.append(take_part(batch_size, num_together))
    assert [len(part) for part in parts] == expected
    assert [place for part in parts for place in part] == list(range(batch_size))
    assert all(part.start % num_together == 0 for part in parts)


def test_a_batch_that_is_too_small_to_divide_is_named(monkeypatch):
    monkeypatch.setattr("trainables.process.distributed.count_processes", lambda: 3)
    with pytest.raises(ValueError, match=r"batch_size must be at least 6 .* 3 processes, got 5"):
        take_part(5, 2)
