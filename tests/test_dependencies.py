"""What pyproject.toml asks for is what the product imports, within bounds that were tested."""

from __future__ import annotations

import ast
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, version
from pathlib import Path

import optuna
import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "models", "search", "trainables")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE = [Requirement(text) for text in PROJECT["dependencies"]]
EXTRAS = [
    requirement
    for texts in PROJECT["optional-dependencies"].values()
    for requirement in map(Requirement, texts)
    if requirement.name != PROJECT["name"]
]
# By Optuna for its Gaussian-process sampler, by PyTorch for its newer exporter to ONNX.
IMPORTED_BY_OTHERS = {
    "scipy": Path(optuna.__file__).parent / "_gp" / "optim_mixed.py",
    "onnxscript": Path(torch.__file__).parent / "onnx" / "_internal" / "exporter" / "_core.py",
}
USED_INSIDE = ("optuna", "ray")  # what is private in them is used


def find_imports(tree: ast.Module) -> Iterator[str]:
    """Top-level modules that a file imports, also within its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.split(".")[0]


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """Distributions, by canonical name, that the product imports."""
    files = [path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")]
    modules = {name for path in files for name in find_imports(ast.parse(path.read_text()))}
    known = packages_distributions()
    foreign = modules - set(sys.stdlib_module_names) - set(PACKAGES)
    return {canonicalize_name(name) for module in foreign for name in known.get(module, [module])}


def name_of(requirement: Requirement) -> str:
    return canonicalize_name(requirement.name)


def find_unused(requirements: list[Requirement], imported: set[str]) -> set[str]:
    return {name_of(entry) for entry in requirements} - imported - set(IMPORTED_BY_OTHERS)


def find_undeclared(requirements: list[Requirement], imported: set[str]) -> set[str]:
    return imported - {name_of(entry) for entry in requirements}


def test_every_dependency_is_imported(imported: set[str]) -> None:
    assert not find_unused(CORE, imported), "nothing imports these: take them out of pyproject.toml"
    assert find_unused([*CORE, Requirement("attrs>=1")], imported) == {"attrs"}


def test_every_import_is_declared(imported: set[str]) -> None:
    assert not find_undeclared([*CORE, *EXTRAS], imported), "add these to pyproject.toml"
    assert find_undeclared(EXTRAS, imported) > {"torch", "pillow"}


@pytest.mark.parametrize("name", IMPORTED_BY_OTHERS)
def test_a_dependency_of_others_is_imported_there(name: str) -> None:
    assert name in set(find_imports(ast.parse(IMPORTED_BY_OTHERS[name].read_text())))


@pytest.mark.parametrize("requirement", [*CORE, *EXTRAS], ids=str)
def test_bounds_hold_what_is_installed_and_end_somewhere(requirement: Requirement) -> None:
    operators = {entry.operator for entry in requirement.specifier}
    assert operators >= {">=", "<"}, "needs the lowest version tested and the first one that is not"
    try:
        installed = version(requirement.name)
    except PackageNotFoundError:
        return  # an extra that is not installed
    assert requirement.specifier.contains(installed), f"tested with {installed}"


@pytest.mark.parametrize(
    "requirement", [entry for entry in CORE if entry.name in USED_INSIDE], ids=str
)
def test_a_library_used_inside_is_held_at_its_minor_version(requirement: Requirement) -> None:
    installed = Version(version(requirement.name))
    following = f"{installed.major}.{installed.minor + 1}.0"
    assert not requirement.specifier.contains(following)
