"""One driver at a time, from whatever machine."""

from __future__ import annotations

import os
import socket
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from search.run_files import driver_lease
from search.run_files.driver_lease import LEASE_FILE, DriverLease
from trainables.artifacts.remote_folder import RemoteFolder


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RemoteFolder:
    monkeypatch.setattr(driver_lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(driver_lease, "FRESH_SECONDS", 1.0)
    monkeypatch.setattr(driver_lease, "SETTLE_SECONDS", 0.05)
    return RemoteFolder(tmp_path.as_uri(), patience_seconds=0)


def test_second_driver_is_refused_and_told_who_is_first(remote: RemoteFolder) -> None:
    with DriverLease(remote).held():
        started = time.monotonic()
        with pytest.raises(ValueError, match="is in use by") as error, DriverLease(remote).held():
            pass
        assert time.monotonic() - started < 0.9  # it does not wait for the lease to grow old
        assert socket.gethostname() in str(error.value)
        assert f"process {os.getpid()}" in str(error.value)
    assert not remote.exists(LEASE_FILE)
    with DriverLease(remote).held():
        pass


def test_lease_of_a_driver_that_died_is_taken_once_it_is_old(remote: RemoteFolder) -> None:
    DriverLease(remote).beat()
    started = time.monotonic()
    with DriverLease(remote).held():
        assert time.monotonic() - started >= 1.0


def test_clock_that_is_days_ahead_takes_no_run_from_a_driver(
    remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DriverLease(remote).held():
        now = time.time
        monkeypatch.setattr(time, "time", lambda: now() + 7 * 86400)
        with pytest.raises(ValueError, match="is in use by"), DriverLease(remote).held():
            pass


def test_driver_that_was_away_for_too_long_notices_and_leaves_the_lease_alone(
    remote: RemoteFolder, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        first = DriverLease(remote)
        stack.enter_context(first.held())
        remote.delete(LEASE_FILE)
        second = DriverLease(remote)
        second.beat()
        deadline = time.monotonic() + 20
        while not first.is_lost and time.monotonic() < deadline:
            time.sleep(0.02)
        assert first.is_lost
        assert not second.is_lost
        assert "has taken over the run" in caplog.text
    assert remote.exists(LEASE_FILE)


def test_driver_that_ends_before_it_notices_leaves_the_lease_alone_too(
    remote: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_lease, "BEAT_SECONDS", 60.0)
    with DriverLease(remote).held():
        remote.delete(LEASE_FILE)
        DriverLease(remote).beat()
    assert remote.exists(LEASE_FILE)


def test_beat_that_does_not_come_through_is_tried_again(
    remote: RemoteFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with DriverLease(remote).held():
        before = remote.read(LEASE_FILE)
        with monkeypatch.context() as patch:
            patch.setattr(
                RemoteFolder, "_upload", lambda *a: (_ for _ in ()).throw(OSError("away"))
            )
            time.sleep(0.3)
        deadline = time.monotonic() + 20
        while remote.read(LEASE_FILE) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert remote.read(LEASE_FILE) != before
