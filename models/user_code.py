"""The source files of a user's own network, and a hash of them."""

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
    """The source files of a network.

    Attributes:
        root: Folder that must be on a machine's Python path, or that contains the file.
        files: The module and everything that it imports, directly or indirectly, from below `root`.
            The paths are relative to `root` and sorted.
    """

    root: Path
    files: tuple[Path, ...]

    def compute_hash(self) -> str:
        """Hash the names and bytes of the files to 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(path.as_posix().encode() + b"\0")
            digest.update(hashlib.sha256((self.root / path).read_bytes()).digest())
        return digest.hexdigest()[:16]


def find_user_code(name: str) -> UserCode | None:
    """Find the source files of a user's network; None for networks of ours and of libraries.

    Args:
        name: Name of the network, as for `models.create_model`. Its module is imported.

    Raises:
        ValueError: The module cannot be imported.
    """
    if not is_foreign(name) or is_library(name):
        return None
    module, _ = split_name(name)
    import_module(module)
    if is_file(module):
        return _collect(Path(module).parent, Path(module), only=None)
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise ValueError(
            f"{module} has no Python source files, so its versions cannot be distinguished"
        )
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
    """Follow imports from file to file, as long as they are below the root.

    Args:
        root: Folder that module names are relative to.
        start: The first file.
        only: Name of the only package to follow; None: everything below the root.
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
    """Yield the files that an import of a dotted name runs; none if it is not below the root.

    The last part of the name may be a name inside a module.
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
