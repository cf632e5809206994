"""Checks that the nodes of a cluster agree with the driver before a study uses them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from trainables.artifacts.remote_folder import RemoteFolder, is_uri
from trainables.process.installation import Installation, find_differences, inspect_installation
from trainables.process.shipped_code import ShippedCode, find_code_problems

PROBE_PREFIX = ".node-check-"
STORAGE_SECONDS = 10.0  # how long a failing storage is tried again


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeReport(Installation):
    """Report of one machine about itself.

    Attributes:
        sees_data: Whether the machine finds files in the data set's folder.
        sees_run: Whether it sees the file that the driver has just written to the run's folder.
        writes_run: Whether it can write to the run's folder.
        storage_error: Reason why it cannot use the run's storage; "" if it can.
        store_error: Reason why it cannot use the store that studies share; "" if it can, or if
            there is none.
        num_gpus: Number of GPUs that PyTorch finds.
        code_problems: Reasons why it cannot use the code of the user's own networks.
    """

    sees_data: bool = True
    sees_run: bool = True
    writes_run: bool = True
    storage_error: str = ""
    store_error: str = ""
    num_gpus: int = 0
    code_problems: tuple[str, ...] = ()


def inspect_node(
    data_root: Path | None,
    place: Path | str,
    store: str | None = None,
    code: ShippedCode | None = None,
    cache_dir: Path = Path(),
) -> NodeReport:
    """Inspect this machine.

    Args:
        data_root: Folder of the data set; None if it needs none.
        place: File that the driver has written to the run's folder, or the URI of a run in storage.
        store: Path or URI of the store that studies share; None if the run has its own.
        code: Code of the user's own networks, which is written to this machine if it lacks it.
        cache_dir: Folder where the code is kept.
    """
    shared = place if isinstance(place, Path) else None
    return NodeReport(
        **asdict(inspect_installation()),
        sees_data=data_root is None or _has_entries(data_root),
        sees_run=shared is None or shared.is_file(),
        writes_run=shared is None or _is_writable(shared.parent),
        storage_error="" if isinstance(place, Path) else _try_storage(place),
        store_error="" if store is None else _try_store(store),
        num_gpus=torch.cuda.device_count(),
        code_problems=() if code is None else tuple(find_code_problems(code, cache_dir)),
    )


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
        driver: Report of the driver's own machine.
        nodes: Reports of the nodes, by address.
        offered_gpus: Number of GPUs that Ray offers, by address of the node.
        data_root: Folder of the data set, for the message.
        run_dir: Folder of the run, for the message.

    Raises:
        ValueError: A node differs; the message names each one, the difference and the remedy.
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
    """Join problems into one message of several lines."""
    return "\n".join(["the cluster cannot run this study:", *problems])


def _find_problems(
    driver: NodeReport,
    node: NodeReport,
    offered_gpus: float,
    data_root: Path | None,
    run_dir: Path,
) -> Iterator[str]:
    yield from find_differences(driver, node)
    yield from node.code_problems
    if not node.sees_data:
        yield f"finds nothing in {data_root}; mount or copy the data set there under this path"
    if not node.sees_run:
        yield f"does not see the driver's {run_dir}; choose an --output-dir that all nodes share"
    elif not node.writes_run:
        yield f"cannot write to {run_dir}; give write access to the user that Ray runs as"
    if node.storage_error:
        yield (
            f"cannot use the run's storage ({node.storage_error}); give it credentials and network "
            "access to the storage (on AWS with an instance profile)"
        )
    if node.store_error:
        yield (
            f"cannot use the store that studies share ({node.store_error}); mount it there under "
            "the same path, or give the node credentials"
        )
    if node.num_gpus < offered_gpus:
        yield (
            f"PyTorch finds {node.num_gpus} of the {offered_gpus:g} GPUs that Ray offers; check "
            "nvidia-smi there and that PyTorch is built for CUDA"
        )


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


def _try_store(store: str) -> str:
    if is_uri(store):
        return _try_storage(store)
    return "" if _is_writable(Path(store)) else "it is not a writable folder"


def _is_writable(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder, prefix=PROBE_PREFIX) as file:
            file.write(b"0")
    except OSError:
        return False
    return True
