"""How the tests share a machine's cores, and an S3 that runs in them."""

from __future__ import annotations

import itertools
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch


def pytest_configure() -> None:
    """Give each of the processes that run tests side by side its part of the cores."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    hypothesis.settings.register_profile("side by side", deadline=None)
    hypothesis.settings.load_profile("side by side")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests that start Ray in one process: two sessions would fight for the cores."""
    skip = pytest.mark.skip(reason="takes minutes: SEGFRONT_LONG_TESTS=1")
    for item in items:
        if item.get_closest_marker("long") and "SEGFRONT_LONG_TESTS" not in os.environ:
            item.add_marker(skip)
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Folder on a disk of 512 KiB of its own."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"a small disk needs the right to mount one: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class S3Server:
    """moto's S3 on a port of the loopback; what it holds survives its end and next start."""

    def __init__(self) -> None:
        self.port = 0
        self._server: Any = None
        self._numbers = itertools.count()
        self.start()

    def start(self) -> None:
        from moto.server import ThreadedMotoServer

        self._server = ThreadedMotoServer("127.0.0.1", self.port, verbose=False)
        self._server.start()
        _, self.port = self._server.get_host_and_port()

    def stop(self) -> None:
        self._server.stop()

    def make_bucket(self) -> str:
        """URI of a new, empty bucket."""
        name = f"bucket-{next(self._numbers)}"
        self.request("PUT", f"/{name}")
        return f"s3://{name}?scheme=http&endpoint_override=127.0.0.1:{self.port}&region=us-east-1"

    def request(self, method: str, path: str, data: bytes | None = None) -> bytes:
        url = f"http://127.0.0.1:{self.port}{path}"
        with urllib.request.urlopen(
            urllib.request.Request(url, data, method=method), timeout=20
        ) as answer:
            content: bytes = answer.read()
        return content


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The server, and credentials for it in the environment."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return s3_server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """URI of an empty bucket."""
    return s3.make_bucket()
