"""The search iterates over what stages declare; it names none of them."""

from __future__ import annotations

import ast
from pathlib import Path

from trainables.pipeline_config import DEFAULT_STAGES
from trainables.stages import STAGES

SEARCH = Path(__file__).parents[2] / "search"
# A section of the configuration and a metric have the names of stages.
OTHER_MEANINGS = {"latency", "teacher", "consistency"}
NAMES = set(STAGES) - OTHER_MEANINGS


def find_names(code: str) -> list[str]:
    texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    words = [text for text in texts if isinstance(text, str)]
    return [word for word in words if word.partition(".")[0] in NAMES]


def test_no_file_of_the_search_names_a_stage() -> None:
    assert set(DEFAULT_STAGES) - OTHER_MEANINGS <= NAMES
    found = {
        path.relative_to(SEARCH).as_posix(): find_names(path.read_text())
        for path in SEARCH.rglob("*.py")
        if path.name != "recipes.py"
    }
    assert len(found) > 40
    assert {path: names for path, names in found.items() if names} == {}


def test_a_name_is_noticed() -> None:
    assert find_names("if task.stage == 'distilled': pass") == ["distilled"]
    assert find_names("x = settings['pruned.scope']") == ["pruned.scope"]
