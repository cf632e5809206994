"""The rules of imports: who may know whom, and what no file of the project may touch.

Each rule reads the syntax of one file and yields what breaks it, so that the same function is run
over the project and over snippets that must fail.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAY_IMPORT: dict[str, set[str]] = {
    "search": {"trainables", "models"},
    "trainables": {"models"},
    "models": set(),
    "analysis": set(),
}
# `python search/run.py` and `python analysis/report.py` put their folder first on the path.
SCRIPT_FOLDERS = ("search", "analysis")
OPTUNA_FIGURES = {"analysis/figures/importance.py"}
RAY_FILES = {"search/run.py", "trainables/ray_pipeline.py"}
PYARROW_FILES = {"trainables/artifacts/remote_folder.py"}
UNPICKLING_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# The one file that may call torch.load, and only for tensors.
TORCH_FILES = {"models/files/torch_files.py"}
UNPICKLING_CALLS = {
    "torch.load",
    "torch.hub.load",
    "torch.serialization.load",
    "pandas.read_pickle",
}

Rule = Callable[[str, ast.Module], Iterator[str]]


def imported_names(path: str, tree: ast.Module) -> Iterator[str]:
    """Full dotted name of everything a file imports, wherever in it and in whatever way."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = path.split("/")[: -node.level] if node.level else []
            start = ".".join([*folder, *([node.module] if node.module else [])])
            yield from (f"{start}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).split(".")[-1]
            if called in ("import_module", "__import__", "lazy_import"):
                yield str(node.args[0].value)


def called_names(tree: ast.Module) -> Iterator[str]:
    """Dotted name of everything a file refers to, with `import ... as` undone."""
    meaning: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            meaning |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module:
            meaning |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            first, *rest = ast.unparse(node).split(".")
            yield ".".join([meaning.get(first, first), *rest])


def top(name: str) -> str:
    return name.split(".")[0]


def imports_run_one_way(path: str, tree: ast.Module) -> Iterator[str]:
    own = top(path.replace("/", "."))
    for name in imported_names(path, tree):
        if top(name) in MAY_IMPORT and top(name) not in MAY_IMPORT[own] | {own}:
            yield f"{path} imports {name}: {own} may import {sorted(MAY_IMPORT[own]) or 'none'}"


def ray_stays_in_its_files(path: str, tree: ast.Module) -> Iterator[str]:
    if path not in RAY_FILES and not path.startswith("search/on_ray/"):
        for name in imported_names(path, tree):
            if top(name) == "ray":
                yield f"{path} imports {name}: only search/on_ray/ and {sorted(RAY_FILES)} may"


def optuna_stays_in_search(path: str, tree: ast.Module) -> Iterator[str]:
    if not path.startswith("search/") and path not in OPTUNA_FIGURES:
        for name in imported_names(path, tree):
            if top(name) == "optuna":
                yield f"{path} imports {name}: only search/ and {sorted(OPTUNA_FIGURES)} may"


def pyarrow_stays_in_remote_folder(path: str, tree: ast.Module) -> Iterator[str]:
    if path not in PYARROW_FILES:
        for name in imported_names(path, tree):
            if top(name) == "pyarrow":
                yield f"{path} imports {name}: only {sorted(PYARROW_FILES)} may"


def nothing_is_unpickled(path: str, tree: ast.Module) -> Iterator[str]:
    for name in imported_names(path, tree):
        if top(name) in UNPICKLING_MODULES:
            yield f"{path} imports {name}, which can run code from a file"
    for name in called_names(tree):
        is_checked = name == "torch.load" and path in TORCH_FILES and not _loads_objects(tree)
        if name in UNPICKLING_CALLS and not is_checked:
            yield f"{path} uses {name}, which can run code from a file"
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            yield f"{path} says allow_pickle, which can run code from a file"


def _loads_objects(tree: ast.Module) -> bool:
    """Whether torch.load is called, or passed on, without weights_only=True."""
    calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call)]
    safe = [
        call
        for call in calls
        if ast.unparse(call.func) == "torch.load"
        and {k.arg: ast.unparse(k.value) for k in call.keywords}.get("weights_only") == "True"
    ]
    mentioned = [name for name in called_names(tree) if name == "torch.load"]
    return len(safe) != len(mentioned)


def scripts_hide_no_module(path: str, tree: ast.Module) -> Iterator[str]:
    folder, *rest = path.split("/")
    name = rest[0].removesuffix(".py") if rest else ""
    if folder in SCRIPT_FOLDERS and name in foreign_modules():
        yield f"{path}: a script in {folder}/ that imports {name} would get this file instead"


@cache
def foreign_modules() -> set[str]:
    installed = {
        module
        for module, distributions in packages_distributions().items()
        if set(distributions) != {"segfront"}
    }
    return set(sys.stdlib_module_names) | installed


RULES: tuple[Rule, ...] = (
    imports_run_one_way,
    ray_stays_in_its_files,
    optuna_stays_in_search,
    pyarrow_stays_in_remote_folder,
    nothing_is_unpickled,
    scripts_hide_no_module,
)


def source_files() -> list[Path]:
    files = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 60, f"found only {len(files)} files below {ROOT}"
    return files


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds_in_every_file(rule: Rule) -> None:
    broken = [
        problem
        for path in source_files()
        for problem in rule(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text()))
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    ("rule", "path", "code"),
    [
        (imports_run_one_way, "models/a.py", "import trainables"),
        (imports_run_one_way, "models/a.py", "from trainables.data import normalize"),
        (imports_run_one_way, "trainables/a.py", "def f():\n    from search import config"),
        (imports_run_one_way, "trainables/data/a.py", "import torch, search.config as c"),
        (imports_run_one_way, "search/a.py", "import analysis.pareto"),
        (imports_run_one_way, "analysis/a.py", "import_module('models')"),
        (imports_run_one_way, "analysis/figures/a.py", "from ...models import cost"),
        (ray_stays_in_its_files, "search/pipelines/study.py", "import ray"),
        (ray_stays_in_its_files, "trainables/learning/training.py", "from ray import tune"),
        (ray_stays_in_its_files, "models/a.py", "if True:\n    import ray.tune as t"),
        (optuna_stays_in_search, "trainables/a.py", "import optuna"),
        (optuna_stays_in_search, "analysis/figures/front_2d.py", "from optuna.trial import Trial"),
        (pyarrow_stays_in_remote_folder, "trainables/artifacts/store.py", "from pyarrow import fs"),
        (nothing_is_unpickled, "models/checkpoint.py", "import pickle"),
        (nothing_is_unpickled, "models/checkpoint.py", "from pickle import loads"),
        (nothing_is_unpickled, "models/checkpoint.py", "import torch\ntorch.load('a.pt')"),
        (nothing_is_unpickled, "models/checkpoint.py", "import torch as t\nt.load('a.pt')"),
        (nothing_is_unpickled, "models/a.py", "import torch\ntorch.load('a', weights_only=True)"),
        (nothing_is_unpickled, "models/files/torch_files.py", "import torch\ntorch.load('a')"),
        (
            nothing_is_unpickled,
            "models/files/torch_files.py",
            "import torch\ntorch.load('a', weights_only=False)",
        ),
        (nothing_is_unpickled, "models/files/torch_files.py", "import torch\nread = torch.load"),
        (nothing_is_unpickled, "models/checkpoint.py", "from torch import load\nload('a.pt')"),
        (nothing_is_unpickled, "trainables/a.py", "np.load('a.npy', allow_pickle=True)"),
        (scripts_hide_no_module, "search/random.py", ""),
        (scripts_hide_no_module, "search/optuna.py", ""),
        (scripts_hide_no_module, "analysis/statistics.py", ""),
        (scripts_hide_no_module, "analysis/plotly/front.py", ""),
    ],
)  # fmt: skip
def test_rule_can_fail(rule: Rule, path: str, code: str) -> None:
    assert list(rule(path, ast.parse(code)))


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("search/a.py", "import optuna\nfrom trainables import store\nfrom models import cost"),
        ("search/on_ray/a.py", "import ray\nfrom search import space"),
        ("trainables/ray_pipeline.py", "from ray import tune\nfrom . import store"),
        ("trainables/data/a.py", "from .dataset import DataError\nimport numpy\nnumpy.load('a')"),
        ("models/files/torch_files.py", "import torch\ntorch.load(path, weights_only=True)"),
        ("analysis/figures/colors.py", "import json\njson.load(file)"),
    ],
)  # fmt: skip
def test_rules_let_good_code_pass(path: str, code: str) -> None:
    assert not [problem for rule in RULES for problem in rule(path, ast.parse(code))]


NO_NETWORK = """
import sys

def refuse(event, arguments):
    if event == "socket.getaddrinfo" or (
        event == "socket.connect" and arguments[0].family.name != "AF_UNIX"
    ):
        raise SystemExit(f"network at import: {event} {arguments[1:]}")

sys.addaudithook(refuse)
"""


def run_without_network(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", NO_NETWORK + code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)


def test_import_of_every_module_needs_no_network() -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in source_files()
    ]
    ended = run_without_network("\n".join(f"import {name}" for name in names))
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
    ],
)
def test_network_at_import_is_noticed(code: str) -> None:
    ended = run_without_network(code)
    assert ended.returncode != 0
    assert "network at import" in ended.stderr
