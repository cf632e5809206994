"""Code and package versions of this process, which every node of a cluster must share."""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata as packages
from pathlib import Path

from trainables.process.machine_errors import SurroundingsError

PACKAGES = ("segfront", "ray", "torch", "torchvision", "numpy")
SOURCE_FOLDERS = ("models", "search", "trainables")


@dataclass(frozen=True, kw_only=True, slots=True)
class Installation:
    """Code and package versions of a process.

    Attributes:
        versions: Version of Python (major.minor) and of each package that results depend on; "" for
            a package that is missing.
        source_hash: Hash of the project's code, from `hash_source`.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    source_hash: str = ""


@cache
def inspect_installation() -> Installation:
    """Read the versions and hash the code of this process, once; later changes are not noticed."""
    major, minor, _ = platform.python_version_tuple()
    return Installation(
        versions={"python": f"{major}.{minor}"} | {name: _version(name) for name in PACKAGES},
        source_hash=hash_source(Path(__file__).parents[2]),
    )


def hash_source(root: Path) -> str:
    """Hash every Python file of the project's packages to 16 hexadecimal digits.

    Args:
        root: Folder that holds `models/`, `search/` and `trainables/`.
    """
    digest = hashlib.sha256()
    for folder in SOURCE_FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def find_differences(driver: Installation, node: Installation) -> Iterator[str]:
    """Say how a node differs from the driver, and what to do about it.

    Builds of one version count as equal, such as PyTorch for CPU and for CUDA.
    """
    for name, version in driver.versions.items():
        there = node.versions.get(name, "")
        if _without_build(there) != _without_build(version):
            yield (
                f"{name} is {there or 'missing'}, but the driver has {version or 'none'}; install "
                "the "
                "same environment there (`ray up` of the project's cluster files does)"
            )
    if node.source_hash != driver.source_hash:
        yield (
            f"its code ({node.source_hash}) is not the driver's ({driver.source_hash}); copy the "
            "same code there (running `ray up` again does) and restart Ray there"
        )


def check_installation(driver: Installation) -> None:
    """Compare this process with the driver.

    Raises:
        SurroundingsError: They differ; the message names this machine, the first difference and
            what to do.
    """
    for difference in find_differences(driver, inspect_installation()):
        raise SurroundingsError(f"node {socket.gethostname()}: {difference}")


def _without_build(version: str) -> str:
    """Return a version without its build, which follows "+" (`2.14.1+cpu`)."""
    return version.partition("+")[0]


def _version(package: str) -> str:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return ""
