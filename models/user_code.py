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

from models.resolving import (
    OUR_PACKAGES,
    import_module,
    is_file,
    is_foreign,
    is_library,
    locate,
    split_name,
)

OURS = Path(__file__).parents[1]
COMPANIONS = (".py", ".json", ".yaml", ".yml", ".toml")
"""Of the package that a network lies in, what goes to other machines with it."""
MAX_COMPANION_BYTES = 2**20


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
        """Hash the names and bytes of what the network may read to 16 hexadecimal digits."""
        digest = hashlib.sha256()
        for path, content in self.read().items():
            digest.update(path.encode() + b"\0")
            digest.update(hashlib.sha256(content).digest())
        return digest.hexdigest()[:16]

    def read(self) -> dict[str, bytes]:
        """Read what another machine needs, by path relative to `root`.

        That is `files`, and of their packages the settings and the modules beside them, which
        they may read or import by names made while they run.
        """
        wanted = set(self.files)
        for folder in {path.parent for path in self.files} - {Path()}:
            for path in sorted((self.root / folder).iterdir()):
                if path.suffix in COMPANIONS and path.stat().st_size <= MAX_COMPANION_BYTES:
                    wanted.add(folder / path.name)
        return {p.as_posix(): (self.root / p).read_bytes() for p in sorted(wanted)}


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
    return _read_module(module)


def hash_present_code(name: str) -> str | None:
    """Hash the files of a network without importing it; None if they are not on this machine."""
    module, _ = split_name(name)
    try:
        return _read_module(module).compute_hash()
    except (ValueError, OSError, SyntaxError, ImportError):
        return None


def _read_module(module: str) -> UserCode:
    """Collect the files of a module, of which no code is run.

    Raises:
        ValueError: It has no Python source.
    """
    if is_file(module):
        path = locate(module)
        return _collect(path.parent, path, only=None)
    package, *parts = module.split(".")
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    places = [Path(folder, *parts) for folder in folders]
    found = [p for base in places for p in (base / "__init__.py", base.with_suffix(".py"))]
    if not parts and not folders and spec is not None and spec.origin is not None:
        found = [Path(spec.origin)]
    start = next((path for path in found if path.suffix == ".py" and path.is_file()), None)
    if start is None:
        raise ValueError(
            f"{module} has no Python source files, so its versions cannot be distinguished"
        )
    root = start.parents[len(parts) + (start.name == "__init__.py")]
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
    first = name.split(".")[0]
    if first in sys.stdlib_module_names or (root == OURS and first in OUR_PACKAGES):
        return
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base = root.joinpath(*parts[:length])
        for path in (base / "__init__.py", base.with_suffix(".py")):
            if path.is_file():
                yield path
                yield from _get_parent_inits(root, path)
                return


def _get_imports(root: Path, path: Path) -> Iterator[str]:
    folders = path.parent.relative_to(root).parts
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = folders[: len(folders) - node.level + 1] if node.level else ()
            whole = ".".join([*start, *([node.module] if node.module else [])])
            yield from (f"{whole}.{alias.name}".lstrip(".") for alias in node.names)
