"""What a machine must have in common with the others before a study may use it."""

from __future__ import annotations

import hashlib
import platform
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata as packages
from pathlib import Path

import torch

from trainables.remote_folder import RemoteFolder

PACKAGES = ("segfront", "ray", "torch", "torchvision", "numpy")
SOURCE_FOLDERS = ("models", "search", "trainables")
PROBE_PREFIX = ".node-check-"
STORAGE_SECONDS = 10.0  # for a storage that fails to come round


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeReport:
    """What one machine says of itself.

    Attributes:
        versions: Of Python (major.minor) and the packages that results depend on, "" if missing.
        source_hash: Of the project's code there.
        sees_data: Whether it finds files in the data set's folder.
        sees_run: Whether it sees what the driver has just written to the run's folder.
        writes_run: Whether it can write there.
        storage_error: Why it cannot use the storage that the run lies in; "" if it can.
        num_gpus: GPUs that PyTorch finds.
    """

    versions: Mapping[str, str] = field(default_factory=dict)
    source_hash: str = ""
    sees_data: bool = True
    sees_run: bool = True
    writes_run: bool = True
    storage_error: str = ""
    num_gpus: int = 0


def inspect_node(data_root: Path | None, place: Path | str) -> NodeReport:
    """Look at this machine.

    Args:
        data_root: Folder of the data set; None if it needs none.
        place: File that the driver has written to the run's folder; if that lies in storage, its
            URI.
    """
    shared = place if isinstance(place, Path) else None
    major, minor, _ = platform.python_version_tuple()
    return NodeReport(
        versions={"python": f"{major}.{minor}"} | {name: _version(name) for name in PACKAGES},
        source_hash=hash_source(Path(__file__).parents[1]),
        sees_data=data_root is None or _has_entries(data_root),
        sees_run=shared is None or shared.is_file(),
        writes_run=shared is None or _is_writable(shared.parent),
        storage_error="" if isinstance(place, Path) else _try_storage(place),
        num_gpus=torch.cuda.device_count(),
    )


def hash_source(root: Path) -> str:
    """16 hexadecimal digits over every Python file of the project's packages.

    Args:
        root: Folder that holds the packages.
    """
    digest = hashlib.sha256()
    for folder in SOURCE_FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def check_nodes(
    driver: NodeReport,
    nodes: Mapping[str, NodeReport],
    offered_gpus: Mapping[str, float],
    *,
    data_root: Path | None,
    run_dir: Path,
) -> None:
    """Compare every node with the driver.

    Args:
        driver: What the driver says of its own machine.
        nodes: What the nodes say, by address.
        offered_gpus: GPUs that Ray hands out, by address of the node.
        data_root: For the message.
        run_dir: For the message.

    Raises:
        ValueError: Names each node that differs, in what, and the remedy.
    """
    problems = [
        f"node {address}: {problem}"
        for address, report in sorted(nodes.items())
        for problem in _find_problems(
            driver, report, offered_gpus.get(address, 0.0), data_root, run_dir
        )
    ]
    if problems:
        raise ValueError(join_problems(problems))


def join_problems(problems: Sequence[str]) -> str:
    """One message of many lines."""
    return "\n".join(["the cluster cannot run this study:", *problems])


def _find_problems(
    driver: NodeReport,
    node: NodeReport,
    offered_gpus: float,
    data_root: Path | None,
    run_dir: Path,
) -> Iterator[str]:
    for name, version in driver.versions.items():
        there = node.versions.get(name, "")
        if _without_build(there) != _without_build(version):
            yield (
                f"{name} is {there or 'missing'}, the driver has {version or 'none'}; install the "
                "same environment there (`ray up` of the project's cluster files does)"
            )
    if node.source_hash != driver.source_hash:
        yield (
            f"its code ({node.source_hash}) is not the driver's ({driver.source_hash}); bring the "
            "same code there (`ray up` again does) and restart Ray there"
        )
    if not node.sees_data:
        yield f"finds nothing in {data_root}; mount or copy the data set there under this path"
    if not node.sees_run:
        yield f"does not see the driver's {run_dir}; choose an --output-dir that all nodes share"
    elif not node.writes_run:
        yield f"cannot write to {run_dir}; allow it to the user that Ray runs as"
    if node.storage_error:
        yield (
            f"cannot use the run's storage ({node.storage_error}); give it the credentials and the "
            "way there (on AWS an instance profile)"
        )
    if node.num_gpus < offered_gpus:
        yield (
            f"PyTorch finds {node.num_gpus} of the {offered_gpus:g} GPUs that Ray offers; check "
            "nvidia-smi there and that PyTorch is built for CUDA"
        )


def _without_build(version: str) -> str:
    """Drop what follows "+": PyTorch for CPU and for CUDA are one version."""
    return version.partition("+")[0]


def _version(package: str) -> str:
    try:
        return packages.version(package)
    except packages.PackageNotFoundError:
        return ""


def _has_entries(folder: Path) -> bool:
    try:
        return any(folder.iterdir())
    except OSError:
        return False


def _try_storage(uri: str) -> str:
    try:
        RemoteFolder(uri, patience_seconds=STORAGE_SECONDS).check()
    except (OSError, ValueError) as error:
        return " ".join(str(error).split())
    return ""


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=PROBE_PREFIX) as file:
            file.write(b"0")
    except OSError:
        return False
    return True
