"""The rules of imports: who may know whom, and what no file of the project may touch.

Each rule reads the syntax of one file and yields what breaks it, so that the same function is run
over the project and over snippets that must fail.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from graphlib import CycleError, TopologicalSorter
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
# What a folder may know of its own package: folders and files beside it. Decisions (proposing,
# pipelines) and what is written (run_files) know nothing of Ray; only run.py knows the whole.
FOLDER_MAY_IMPORT: dict[str, set[str]] = {
    "search/proposing": {"space"},
    "search/pipelines": {"config", "objectives", "proposing", "space"},
    "search/forecast": {"config", "duration", "pipelines", "run_files", "space"},
    "search/run_files": {"config", "duration", "objectives", "pipelines", "proposing", "space"},
    "search/on_ray": {
        "command_line", "config", "forecast", "objectives", "pipelines", "run_files", "space",
    },
    "trainables/process": set(),
    "trainables/artifacts": {"process"},
    "trainables/data": {"process"},
    "trainables/distillers": {"losses", "process", "ranges", "settings"},
    "trainables/learning": {"artifacts", "context", "data", "losses", "metrics", "process"},
    "trainables/stages": {
        "artifacts", "context", "data", "data_source", "deployment", "distillers", "learning",
        "losses", "metrics", "network_config", "objective", "pipeline_config", "process", "ranges",
        "sensitivity", "settings",
    },
    "trainables/predicting": {"context", "data", "learning", "metrics"},
    "models/files": set(),
    "models/quantization": {"signal_stack"},
    "models/blocks": {"files"},
    "models/deployment": {"files", "normalization"},
    "models/engines": {
        "deployment", "normalization", "signal_stack", "tiny_weights", "torch_internals",
    },
    "models/timing": {"engines", "machine"},
    "models/channels": {"blocks", "network", "torch_internals"},
    "models/networks": {"blocks", "network"},
    "models/pretrained": {
        "blocks", "create_model", "files", "foreign", "network", "networks",
        "normalization", "tiny_weights",
    },
    "analysis/figures": {
        "lineage", "pareto", "published", "quantities", "results", "summary", "trials_csv",
    },
    "analysis/papers": {
        "class_iou", "figures", "picture_section", "quantities", "results", "run_description",
    },
}  # fmt: skip
# `python search/run.py` and `python analysis/report.py` put their folder first on the path.
SCRIPT_FOLDERS = ("search", "analysis")
OPTUNA_FIGURES = {"analysis/figures/importance.py"}
RAY_FILES = {
    "search/run.py",
    "trainables/ray_helpers.py",
    "trainables/ray_internals.py",
    "trainables/ray_pipeline.py",
}
# The one file that uses what is not public in a library; a test beside it knows each name.
INTERNALS = {
    "optuna": "search/proposing/optuna_internals.py",
    "ray": "trainables/ray_internals.py",
    "torch": "models/torch_internals.py",
}
OPERATORS = "torch.ops.aten."  # their names are PyTorch's interface for exporters and compilers
NAMEDTUPLE_METHODS = {"_asdict", "_fields", "_replace"}
PYARROW_FILES = {"trainables/artifacts/remote_folder.py"}
# Who owns a process may change it for everything else in it; a library function may not.
PROCESS_FILES = {"trainables/run.py", "trainables/ray_pipeline.py"}
THREAD_FILES = {"trainables/context.py", "models/engines/pytorch.py"}  # they set them back
UNPICKLING_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
# The one file that may call torch.load, and only for tensors.
TORCH_FILES = {"models/files/torch_files.py"}
UNPICKLING_CALLS = {
    "torch.load",
    "torch.hub.load",
    "torch.serialization.load",
    "pandas.read_pickle",
}

IMPORT_IN_TEXT = re.compile(rf"^\s*(from|import) ({'|'.join(MAY_IMPORT)})\b", re.MULTILINE)

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


def folders_know_their_place(path: str, tree: ast.Module) -> Iterator[str]:
    package, own = path.split("/")[:2]
    folder = f"{package}/{own}"
    allowed = FOLDER_MAY_IMPORT.get(folder)
    for name in imported_names(path, tree):
        is_inside = allowed is None or not name.startswith(f"{package}.")
        if not is_inside and name.split(".")[1] not in allowed | {own}:
            yield f"{path} imports {name}: {folder} may import {sorted(allowed) or 'none'}"


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


def private_names_stay_in_internals(path: str, tree: ast.Module) -> Iterator[str]:
    used = {top(name) for name in imported_names(path, tree)} & set(INTERNALS)
    if not used or path in INTERNALS.values():
        return
    for name in imported_names(path, tree):
        if top(name) in INTERNALS and any(is_private(part) for part in name.split(".")):
            yield f"{path} imports {name}: only {INTERNALS[top(name)]} may"
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not is_private(node.attr):
            continue
        if ast.unparse(node).startswith(OPERATORS):
            continue
        if ast.unparse(node.value) not in ("self", "cls", "super()"):
            own = [INTERNALS[name] for name in sorted(used)]
            yield f"{path} uses {ast.unparse(node)}: only {own} use what is private in {used}"


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in NAMEDTUPLE_METHODS


def pyarrow_stays_in_remote_folder(path: str, tree: ast.Module) -> Iterator[str]:
    if path not in PYARROW_FILES:
        for name in imported_names(path, tree):
            if top(name) == "pyarrow":
                yield f"{path} imports {name}: only {sorted(PYARROW_FILES)} may"


def processes_are_changed_by_their_owners(path: str, tree: ast.Module) -> Iterator[str]:
    if path not in PROCESS_FILES:
        for name in imported_names(path, tree):
            if name.startswith("trainables.process.memory"):
                yield f"{path} imports {name}: only {sorted(PROCESS_FILES)} may"
    if path not in THREAD_FILES:
        for name in called_names(tree):
            if name in ("torch.set_num_threads", "torch.set_num_interop_threads"):
                yield f"{path} uses {name}: only {sorted(THREAD_FILES)} may"


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


def benchmarks_measure_the_product_as_it_is(path: str, tree: ast.Module) -> Iterator[str]:
    """A benchmark uses what a user can say: it changes no module of the product, nor code in text.

    What it needs to turn off is a flag or an argument of the product.
    """
    own = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if top(getattr(node, "module", None) or alias.name) in MAY_IMPORT
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if IMPORT_IN_TEXT.search(node.value):
                yield f"{path}:{node.lineno} has code of the product in a string"
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func).split(".")
            if called[-1] == "setattr" or "patch" in called:
                yield f"{path}:{node.lineno} patches: {ast.unparse(node)}"
        elif isinstance(node, ast.Assign | ast.AugAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            for target in targets:
                if re.split(r"[.\[]", ast.unparse(target))[0] in own:
                    yield f"{path}:{node.lineno} changes the product: {ast.unparse(node)}"


RULES: tuple[Rule, ...] = (
    imports_run_one_way,
    folders_know_their_place,
    ray_stays_in_its_files,
    optuna_stays_in_search,
    private_names_stay_in_internals,
    pyarrow_stays_in_remote_folder,
    processes_are_changed_by_their_owners,
    nothing_is_unpickled,
    scripts_hide_no_module,
)


def source_files() -> list[Path]:
    files = [path for folder in MAY_IMPORT for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 60, f"found only {len(files)} files below {ROOT}"
    return files


def module_of(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def imported_modules(sources: Mapping[str, str]) -> dict[str, set[str]]:
    """Which of some modules import which others, wherever in them.

    Args:
        sources: Path -> Python code.
    """
    modules = {module_of(path) for path in sources}
    found: dict[str, set[str]] = {}
    for path, code in sources.items():
        # The longest beginning that is a module: the rest are names in it.
        parts = [name.split(".") for name in imported_names(path, ast.parse(code))]
        known = [{".".join(p[:n]) for n in range(1, len(p) + 1)} & modules for p in parts]
        found[module_of(path)] = {max(names, key=len) for names in known if names}
        found[module_of(path)].discard(module_of(path))
    return found


def find_circle(sources: Mapping[str, str]) -> list[str]:
    """Modules that import each other, in turn; empty if none do."""
    try:
        TopologicalSorter(imported_modules(sources)).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_no_modules_import_each_other() -> None:
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in source_files()}
    assert sum(map(len, imported_modules(sources).values())) > 300
    circle = find_circle(sources)
    assert not circle, "these import each other: " + " -> ".join(circle)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from trainables.b import f", "from trainables.a import g"),
        ("import trainables.b", "def f():\n    from . import a"),
        ("from trainables import b", "if TYPE_CHECKING:\n    from .a import A"),
        ("from trainables.c import f", "import trainables.a"),
    ],
)
def test_modules_that_import_each_other_are_found(first: str, second: str) -> None:
    sources = {
        "trainables/__init__.py": "",
        "trainables/a.py": first,
        "trainables/b.py": second,
        "trainables/c.py": "from trainables import b",
    }
    circle = find_circle(sources)
    assert {"trainables.a", "trainables.b"} <= set(circle)
    sources["trainables/b.py"] = "import json"
    assert find_circle(sources) == []


def folder_of(module: str, packages: set[str]) -> str:
    """The folder that a module lies in; a file beside the folders of a package is its own."""
    parts = module.split(".")
    return ".".join(parts[:2]) if len(parts) > 2 or module in packages else module


def find_folder_circle(sources: Mapping[str, str]) -> list[str]:
    """Folders, and files beside folders, that import each other, in turn; empty if none do."""
    packages = {module_of(path) for path in sources if path.endswith("__init__.py")}
    graph: dict[str, set[str]] = {}
    for module, imported in imported_modules(sources).items():
        folder = folder_of(module, packages)
        known = {folder_of(name, packages) for name in imported}
        graph.setdefault(folder, set()).update(known - {folder})
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle: list[str] = error.args[1]
        return circle
    return []


def test_no_folders_import_each_other() -> None:
    sources = {path.relative_to(ROOT).as_posix(): path.read_text() for path in source_files()}
    circle = find_folder_circle(sources)
    assert not circle, "these import each other: " + " -> ".join(circle)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("from trainables.two import b", "from trainables.one import other"),
        ("from trainables.two.b import f", "import trainables.file"),
    ],
)
def test_folders_that_import_each_other_are_found(first: str, second: str) -> None:
    sources = {
        "trainables/__init__.py": "",
        "trainables/file.py": "from trainables.one import other",
        "trainables/one/__init__.py": "",
        "trainables/one/a.py": first,
        "trainables/one/other.py": "",
        "trainables/two/__init__.py": "",
        "trainables/two/b.py": second,
    }
    assert find_circle(sources) == []
    assert {"trainables.one", "trainables.two"} <= set(find_folder_circle(sources))
    sources["trainables/two/b.py"] = "import json"
    assert find_folder_circle(sources) == []


def test_every_folder_has_a_rule() -> None:
    folders = {path.parent.relative_to(ROOT).as_posix() for path in source_files()}
    assert folders - set(MAY_IMPORT) == set(FOLDER_MAY_IMPORT)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_holds_in_every_file(rule: Rule) -> None:
    broken = [
        problem
        for path in source_files()
        for problem in rule(path.relative_to(ROOT).as_posix(), ast.parse(path.read_text()))
    ]
    assert not broken, "\n".join(broken)


def test_benchmarks_measure_the_product_as_it_is() -> None:
    files = sorted((ROOT / "benchmarks").glob("*.py"))
    assert len(files) > 10
    broken = [
        problem
        for path in files
        for problem in benchmarks_measure_the_product_as_it_is(
            path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())
        )
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
        (folders_know_their_place, "search/proposing/a.py", "from search.pipelines import study"),
        (folders_know_their_place, "search/proposing/a.py", "from search.config import load"),
        (folders_know_their_place, "search/pipelines/a.py", "import search.on_ray.session"),
        (folders_know_their_place, "search/pipelines/a.py", "from ..on_ray import searcher"),
        (folders_know_their_place, "search/pipelines/a.py", "from search import run"),
        (folders_know_their_place, "search/run_files/a.py", "from search.on_ray import metrics"),
        (folders_know_their_place, "search/run_files/a.py", "from search.recipes import camvid"),
        (folders_know_their_place, "search/on_ray/a.py", "from search.run import main"),
        (folders_know_their_place, "search/pipelines/a.py", "from search.run_files import answer"),
        (folders_know_their_place, "models/blocks/a.py", "from models.networks import enet"),
        (folders_know_their_place, "models/channels/a.py", "from models import create_model"),
        (folders_know_their_place, "models/engines/a.py", "from models.timing import timed_runs"),
        (folders_know_their_place, "models/files/a.py", "import models.checkpoint"),
        (folders_know_their_place, "trainables/process/a.py", "from trainables import context"),
        (folders_know_their_place, "trainables/process/a.py", "import trainables.artifacts.store"),
        (folders_know_their_place, "trainables/process/a.py", "from ..data import DataError"),
        (folders_know_their_place, "trainables/artifacts/a.py", "import trainables.data.camvid"),
        (folders_know_their_place, "trainables/data/a.py", "import trainables.artifacts.store"),
        (folders_know_their_place, "trainables/learning/a.py", "import trainables.stages.dense"),
        (folders_know_their_place, "trainables/stages/a.py", "from trainables import pipeline"),
        (ray_stays_in_its_files, "search/pipelines/study.py", "import ray"),
        (ray_stays_in_its_files, "trainables/learning/training.py", "from ray import tune"),
        (ray_stays_in_its_files, "models/a.py", "if True:\n    import ray.tune as t"),
        (optuna_stays_in_search, "trainables/a.py", "import optuna"),
        (optuna_stays_in_search, "analysis/figures/front_2d.py", "from optuna.trial import Trial"),
        (private_names_stay_in_internals, "search/pipelines/study.py",
         "import optuna\ndef f(self):\n    self._study._storage"),
        (private_names_stay_in_internals, "search/proposing/a.py",
         "from optuna.trial import Trial\ndef f(t: Trial): return t._trial_id"),
        (private_names_stay_in_internals, "search/proposing/a.py",
         "from optuna.samplers._tpe.sampler import default_gamma"),
        (private_names_stay_in_internals, "search/on_ray/session.py",
         "from ray._private import ray_constants"),
        (private_names_stay_in_internals, "search/on_ray/session.py", "import ray._raylet"),
        (private_names_stay_in_internals, "models/foreign.py",
         "from torch.utils._pytree import tree_map"),
        (private_names_stay_in_internals, "models/foreign.py", "import torch\nlayer._parameters"),
        (pyarrow_stays_in_remote_folder, "trainables/artifacts/store.py", "from pyarrow import fs"),
        (processes_are_changed_by_their_owners, "trainables/learning/evaluation.py",
         "from trainables.process.memory import keep_freed_memory"),
        (processes_are_changed_by_their_owners, "trainables/context.py",
         "from trainables.process import memory"),
        (processes_are_changed_by_their_owners, "models/latency.py",
         "import torch\ntorch.set_num_threads(1)"),
        (processes_are_changed_by_their_owners, "trainables/run.py",
         "from torch import set_num_threads\nset_num_threads(1)"),
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
        (benchmarks_measure_the_product_as_it_is, "benchmarks/a.py",
         "RUN = ('-c', 'import sys\\nfrom search import study\\nstudy.x = None')"),
        (benchmarks_measure_the_product_as_it_is, "benchmarks/a.py",
         "from search.proposing import samplers\nsamplers.BOUNDED = ()"),
        (benchmarks_measure_the_product_as_it_is, "benchmarks/a.py",
         "from search.pipelines import retries as r\nr.RETRY_SECONDS |= {}"),
        (benchmarks_measure_the_product_as_it_is, "benchmarks/a.py",
         "from search.pipelines.retries import RETRY_SECONDS\nRETRY_SECONDS['worker'] = ()"),
        (benchmarks_measure_the_product_as_it_is, "benchmarks/a.py",
         "with patch.object(samplers, 'BOUNDED', ()): pass"),
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
        ("trainables/ray_internals.py", "from ray._private import ray_constants"),
        ("models/torch_internals.py", "from torch.utils._pytree import tree_map"),
        ("models/cost.py", "import torch\ntorch.ops.aten._adaptive_avg_pool2d"),
        ("search/on_ray/a.py", "import ray\ndef f(self, t): self._x = t._asdict()"),
        ("trainables/run.py", "from trainables.process.memory import keep_freed_memory"),
        ("trainables/context.py", "import torch\ntorch.set_num_threads(1)"),
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
