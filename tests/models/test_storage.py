"""A storage that does not answer for a while is waited for; a full disk is named."""

from __future__ import annotations

import errno
import itertools
import socket
from dataclasses import dataclass

import pytest

from models.files import storage
from models.files.storage import PATIENCE_SECONDS, explain_storage_error, patiently


@dataclass
class Clock:
    """Stands for `time`: sleeping takes no time."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(storage, "time", clock)
    return clock


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT])
def test_a_storage_that_is_away_for_a_minute_is_waited_for(
    number: int, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    def work() -> str:
        if clock.now < 60:
            raise OSError(number, "the server is away", "/run/state")
        return "done"

    assert patiently(work) == "done"
    assert 60 <= clock.now < 80
    assert "the server is away" in caplog.text


def test_patience_has_an_end(clock: Clock) -> None:
    with pytest.raises(OSError, match="away"):
        patiently(lambda: (_ for _ in ()).throw(OSError(errno.EIO, "away")))
    assert 0.8 * PATIENCE_SECONDS < clock.now <= PATIENCE_SECONDS


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOENT, errno.EACCES])
def test_what_waiting_cannot_change_is_raised_at_once(number: int, clock: Clock) -> None:
    calls = itertools.count()

    def work() -> None:
        next(calls)
        raise OSError(number, "no")

    with pytest.raises(OSError, match="no"):
        patiently(work)
    assert (next(calls), clock.now) == (1, 0)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/run/a"),
         "the disk is full: No space left on device at /run/a on HOST; make room there"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"),
         "the disk's quota is used up: Disk quota exceeded at a file on HOST; make room there"),
        (OSError(errno.ESTALE, "Stale file handle", "/run/a"),
         "the storage does not answer (Stale file handle): /run/a on HOST; bring it back"),
        (OSError(errno.EROFS, "Read-only file system", "/run/a"),
         "the disk cannot be written to: /run/a on HOST; mount it for writing"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/run/a"), ""),
        (ValueError("no disk at all"), ""),
    ],
)  # fmt: skip
def test_storage_errors_say_where_and_what_to_do(error: Exception, text: str) -> None:
    expected = text.replace("HOST", socket.gethostname())
    assert explain_storage_error(error) == expected
    outer = RuntimeError("the stage failed")
    outer.__cause__ = error
    assert explain_storage_error(outer) == expected
