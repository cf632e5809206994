"""A training that a Ray worker shares with a process on another bundle, which is killed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]


@pytest.mark.ray
@pytest.mark.slow
def test_a_helper_that_dies_costs_what_was_done_since_the_last_state(tmp_path: Path) -> None:
    script = Path(__file__).with_name("helped_training.py")
    ended = subprocess.run(
        [sys.executable, str(script), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    found = json.loads(ended.stdout.splitlines()[-1])
    assert found["killed"]["error"].startswith("HelperLost: ")
    assert 3 <= found["step"] < 10
    assert found["finished"]["error"] == ""
    assert found["finished"]["last"]["outcome"] == "complete"
    assert found["finished"]["helpers"] == ["ray::dense-student helper 1"]
    alone, shared = (Path(found["folders"][name]) for name in ("alone", "shared"))
    results = [json.loads((folder / "result.json").read_text()) for folder in (alone, shared)]
    losses = [torch.tensor(result["result"]["losses"]) for result in results]
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-4, atol=1e-4)
    weights = [load_file(folder / "checkpoint.safetensors") for folder in (alone, shared)]
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)
    assert results[1]["result"]["miou"] == pytest.approx(results[0]["result"]["miou"], abs=1e-3)
