"""Every command of docs/cluster.md is understood by the program that it is for."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from click import Group
from ray.scripts.scripts import cli

from search.command_line import parse_arguments

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs" / "cluster.md").read_text()
BLOCKS = re.findall(r"^```bash\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines()]
RAY_LINES = [line for line in LINES if re.match(r"([A-Z]\w*=\S+ )*ray ", line)]
STUDIES = re.findall(r"python (?:segfront/)?search/run\.py([^';\n]*)", "\n".join(LINES))


def test_blocks_are_found() -> None:
    assert len(BLOCKS) >= 8
    assert len(RAY_LINES) >= 12
    assert len(STUDIES) >= 5


@pytest.mark.parametrize("block", BLOCKS)
def test_block_is_shell(block: str) -> None:
    ended = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("line", RAY_LINES)
def test_ray_knows_the_command(line: str) -> None:
    words = shlex.split(line.partition(" >")[0], comments=True)
    words = words[words.index("ray") + 1 :]
    command = cli
    while isinstance(command, Group):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)
    files = [word for word in words if word.endswith(".yaml")]
    assert all((ROOT / name).is_file() for name in files)


@pytest.mark.parametrize("arguments", STUDIES)
def test_study_is_understood(arguments: str) -> None:
    assert parse_arguments(shlex.split(arguments)).address in ("auto", "http://127.0.0.1:8265")
