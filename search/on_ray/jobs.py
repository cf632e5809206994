"""Submits a study to the job server of a Ray cluster from a machine outside the cluster."""

from __future__ import annotations

import asyncio
import logging
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient
from rich.console import Console

from search.command_line import Arguments
from trainables.artifacts.remote_folder import is_uri

ROOT = Path(__file__).parents[2]
SHIPPED = ("analysis", "models", "search", "trainables")
STOPPED_STATUS = 143  # the status after SIGTERM, which ends a stopped job


def is_job_server(address: str) -> bool:
    """Whether an address is that of a job server (the cluster's dashboard)."""
    return address.startswith(("http://", "https://"))


def submit_study(address: str, argv: Sequence[str], arguments: Arguments, console: Console) -> int:
    """Run search/run.py on a cluster with the code of this checkout, and print its output.

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
        ValueError: No job server answers, or the run's folder would be visible to one node only.
    """
    place = arguments.resume or arguments.output_dir
    if not is_uri(place) and not PurePosixPath(place).is_absolute():
        name = "resume" if arguments.resume else "output_dir"
        raise ValueError(
            f"{name} must be a URI, or an absolute path that all nodes of the cluster share; "
            f"got {place}"
        )
    # Below ERROR, Ray logs each file that it does not upload and each connection that it closes.
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        client = JobSubmissionClient(address)
        job = client.submit_job(
            entrypoint=shlex.join(["python", "search/run.py", *_join_from_inside(argv)]),
            runtime_env={
                "working_dir": str(ROOT),
                "excludes": [f"/{p.name}" for p in ROOT.iterdir() if p.name not in SHIPPED],
            },
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
