"""Submits a study to the job server of a Ray cluster from a machine outside the cluster."""

from __future__ import annotations

import asyncio
import logging
import shlex
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from rich.console import Console

from models.resolving import OUR_PACKAGES, is_file, is_foreign, split_name
from search.command_line import Arguments
from trainables.artifacts.remote_folder import is_uri
from trainables.pipeline import list_networks
from trainables.process.shipped_code import ShippedCode, pack_code

ROOT = Path(__file__).parents[2]
SHIPPED = OUR_PACKAGES
STOPPED_STATUS = 143  # the status after SIGTERM, which ends a stopped job


def is_job_server(address: str) -> bool:
    """Whether an address is that of a job server (the cluster's dashboard)."""
    return address.startswith(("http://", "https://"))


def submit_study(address: str, argv: Sequence[str], arguments: Arguments, console: Console) -> int:
    """Run search/run.py on a cluster with the code of this checkout, and print its output.

    The user's own networks are shipped too if this machine has their code. Otherwise the cluster
    must have it.

    The job does not need this machine and continues if the connection is lost. Ctrl-C stops it in
    the same way as a local study; no checkpoint is lost.

    Args:
        address: http://HOST:PORT of the cluster's dashboard.
        argv: Command line of the study; its paths are paths on the cluster.
        arguments: Parsed form of `argv`.
        console: Console to print to.

    Returns:
        Exit status of the study.

    Raises:
        ValueError: No job server answers, the run's folder would be visible to one node only, or
            the code of a user's own network cannot be imported here.
    """
    place = arguments.resume or arguments.output_dir
    if not is_uri(place) and not PurePosixPath(place).is_absolute():
        name = "resume" if arguments.resume else "output_dir"
        raise ValueError(
            f"{name} must be a URI, or an absolute path that all nodes of the cluster share; "
            f"got {place}"
        )
    code = _pack_own_networks(arguments)
    words = [_rename(word, code) for word in _join_from_inside(argv)]
    # Below ERROR, Ray logs each file that it does not upload and each connection that it closes.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        client = JobSubmissionClient(address)
        with _gathered(code) as folder:
            job = client.submit_job(
                entrypoint=shlex.join(["python", "search/run.py", *words]),
                runtime_env={"working_dir": str(folder)},
            )
    except (OSError, RuntimeError, AuthenticationError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"no Ray job server accepts a study at {address}: {reason}") from None
    console.print(f"job of the cluster: {job}", highlight=False)
    try:
        return _follow(client, job, console)
    except KeyboardInterrupt:
        client.stop_job(job)
        return _follow(client, job, console)


def _join_from_inside(argv: Sequence[str]) -> Iterator[str]:
    """Replace the address by `--address auto`, so that the study joins the cluster it runs in."""
    words = iter(argv)
    for word in words:
        if word == "--address":
            next(words, None)
        elif not word.startswith("--address="):
            yield word
    yield from ("--address", "auto")


def _pack_own_networks(arguments: Arguments) -> ShippedCode:
    if arguments.resume is not None:
        return ShippedCode()  # the run's configuration names them
    names = filter(_is_found_here, list_networks(arguments.study.pipeline))
    return pack_code(names)


def _is_found_here(name: str) -> bool:
    module, _ = split_name(name) if is_foreign(name) else ("", "")
    if is_file(module):
        return Path(module).is_file()
    top = module.split(".")[0]
    beside = (Path(top), Path(f"{top}.py"))  # in the working folder
    return bool(top) and (find_spec(top) is not None or any(path.exists() for path in beside))


def _rename(word: str, code: ShippedCode) -> str:
    """Name a file that goes to the cluster by its place there, in a word of the command line."""
    flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    try:
        module, factory = split_name(value)
    except ValueError:
        return word
    return f"{flag}{equals}{code.places[module]}:{factory}" if module in code.places else word


@contextmanager
def _gathered(code: ShippedCode) -> Iterator[Path]:
    """Put what a study needs of this machine into one folder, for as long as it is uploaded."""
    with tempfile.TemporaryDirectory(prefix="segfront-job-") as name:
        folder = Path(name)
        for package in SHIPPED:
            ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
            shutil.copytree(ROOT / package, folder / package, ignore=ignored)
        code.write(folder)
        yield folder


def _follow(client: JobSubmissionClient, job: str, console: Console) -> int:
    """Print the job's output until it ends, and return its exit status."""

    async def print_lines() -> None:
        async for lines in client.tail_job_logs(job):
            console.out(lines, end="", highlight=False)

    try:
        asyncio.run(print_lines())
        details = client.get_job_info(job)
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"the job server does not answer any more ({error}); the study continues there; "
            f"follow it with: ray job logs --follow {job}"
        ) from None
    if details.status == JobStatus.STOPPED:
        return STOPPED_STATUS
    if details.driver_exit_code is None and details.status != JobStatus.SUCCEEDED:
        raise ValueError(f"job {job} ended as {details.status.value}: {details.message}")
    return details.driver_exit_code or 0
