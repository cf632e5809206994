"""The source of a network of the user's own: which files it is, and a hash over them."""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from models.resolving import import_module, is_file, is_foreign, is_library, split_name


@dataclass(frozen=True, kw_only=True, slots=True)
class UserCode:
    """The files that a network is written in.

    Attributes:
        root: The folder that must be on a machine's path, or that holds the file.
        files: The module and whatever it imports from below `root`, directly or not; relative to
            `root`, sorted.
    """

    root: Path
    files: tuple[Path, ...]

    def compute_hash(self) -> str:
        """16 hexadecimal digits over the files' names and bytes."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(path.as_posix().encode() + b"\0")
            digest.update(hashlib.sha256((self.root / path).read_bytes()).digest())
        return digest.hexdigest()[:16]


def find_user_code(name: str) -> UserCode | None:
    """Find the files of a network; None for our own and the libraries', whose versions say it.

    Args:
        name: As `models.create_model` takes it. Its module is imported.

    Raises:
        ValueError: It cannot be imported.
    """
    if not is_foreign(name) or is_library(name):
        return None
    module, _ = split_name(name)
    import_module(module)
    if is_file(module):
        return _collect(Path(module).parent, Path(module), only=None)
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(f"{module} has no Python source to tell its versions apart by")
    package = module.split(".")[0]
    start = Path(spec.origin)
    depth = module.count(".") + (start.name == "__init__.py")
    root = start.parents[depth]
    installed = {*site.getsitepackages(), *sysconfig.get_paths().values()}
    return _collect(root, start, only=package if str(root) in installed else None)


def hash_user_code(name: str) -> str | None:
    """Hash the files of a network, see `find_user_code`."""
    code = find_user_code(name)
    return None if code is None else code.compute_hash()


def _collect(root: Path, start: Path, *, only: str | None) -> UserCode:
    """Follow imports from file to file, as far as they stay below the root.

    Args:
        root: What module names are relative to.
        start: The first file.
        only: The one package that is followed; None: all that lies below the root.
    """
    found: set[Path] = set()
    pending = [start, *_get_parent_inits(root, start)]
    while pending:
        path = pending.pop()
        if path in found:
            continue
        found.add(path)
        for name in _get_imports(root, path):
            if only is None or name.split(".")[0] == only:
                pending += _find_files(root, name)
    return UserCode(root=root, files=tuple(sorted(path.relative_to(root) for path in found)))


def _get_parent_inits(root: Path, path: Path) -> list[Path]:
    folders = [folder for folder in path.parents if root in folder.parents]
    return [f / "__init__.py" for f in folders if (f / "__init__.py").is_file()]


def _find_files(root: Path, name: str) -> Iterator[Path]:
    """Yield the files that an import of a dotted name runs; none if it lies elsewhere.

    The last part may be a name within a module.
    """
    if name.split(".")[0] in sys.stdlib_module_names:
        return
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = root.joinpath(*parts[:length])
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                yield path
                yield from _get_parent_inits(root, path)
                return


def _get_imports(root: Path, path: Path) -> Iterator[str]:
    folders = path.parent.relative_to(root).parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = folders[: len(folders) - node.level + 1] if node.level else ()
            whole = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{whole}.{alias.name}".lstrip(".") for alias in node.names)
