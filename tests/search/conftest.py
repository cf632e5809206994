from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from search.config import StudyConfig
from search.recipes import streets
from search.space import make_space
from trainables.ranges import FloatRange

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config() -> StudyConfig:
    space = make_space(
        pruning_ratio=FloatRange(low=0.2, high=0.7, step=0.1),
        lr=FloatRange(low=1e-3, high=4e-3, log=True),
    )
    return replace(streets(), num_pipelines=8, first_points=(), continuation=False, space=space)


@pytest.fixture(scope="session")
def run_script() -> Callable[..., SimpleNamespace]:
    """Runs a script beside this file in a process of its own: Ray pickles its functions by value.

    What the script did is returned as `folder` (its first argument), `answer` (its last line, JSON)
    and `errors` (what it wrote to stderr).
    """

    def run(name: str, folder: Path, *arguments: str, timeout: float) -> SimpleNamespace:
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"}
        process = subprocess.run(
            [sys.executable, str(Path(__file__).with_name(name)), str(folder), *arguments],
            cwd=ROOT,
            env={**inherited, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert process.returncode == 0, process.stderr
        answer = json.loads(process.stdout.splitlines()[-1])
        return SimpleNamespace(folder=folder, answer=answer, errors=process.stderr)

    return run
