"""The file of the Optuna study; related changes are written together, completely or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from optuna.storages.journal import (
    BaseJournalBackend,
    JournalFileBackend,
    JournalFileSymlinkLock,
)

from models.files.storage import patiently
from trainables.data.node_cache import write_at


class BatchingJournal(BaseJournalBackend):
    """Optuna's journal file, with batches of changes that are written together.

    Optuna writes each change separately and waits for the disk. A suggested pipeline is a dozen
    changes, and the end of a search with rungs is thousands. Inside `batch`, Optuna sees the
    changes at once, and they are written together at its end. If the driver is killed before that,
    none of them is written.

    Args:
        path: Path of the file, which is created if missing. Other processes may read and write it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = JournalFileSymlinkLock(str(path))
        self._file = WholeLineBackend(path)
        self._num_lines = 0  # number of lines of the file that have been read
        self._waiting: list[dict[str, Any]] | None = None

    @contextmanager
    def batch(self) -> Iterator[list[dict[str, Any]]]:
        """Collect appended changes and write them at the end; the file stays locked meanwhile.

        Yields:
            The changes that will be written.
        """
        if self._waiting is not None:
            yield self._waiting
            return
        self._lock.acquire()
        try:
            self._read_on()
            waiting = self._waiting = []
            try:
                yield waiting
            finally:
                self._waiting = None
                if waiting:
                    self._file.append_logs(waiting)
                    self._read_on()
        finally:
            self._lock.release()

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """See `optuna.storages.journal.BaseJournalBackend`."""
        with self.batch() as waiting:
            waiting += json.loads(json.dumps(logs))  # the form in which they will be read back

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """See `optuna.storages.journal.BaseJournalBackend`."""
        if self._waiting is None or log_number_from < self._num_lines:
            logs = self._file.read_logs(log_number_from)
            for number, log in enumerate(logs, start=log_number_from + 1):
                self._num_lines = max(self._num_lines, number)
                yield log
        if self._waiting is not None:
            yield from self._waiting[max(0, log_number_from - self._num_lines) :]

    def _read_on(self) -> None:
        """Count the new lines, and let Optuna's backend learn where they begin."""
        self._num_lines += sum(1 for _ in self._file.read_logs(self._num_lines))


class WholeLineBackend(JournalFileBackend):
    """Optuna's file backend, except that it writes whole lines or nothing.

    On a full disk Optuna's own backend leaves half a line, and the next line makes the file
    unreadable.

    Differs: it takes no lock, because the caller holds one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append lines, and wait for a storage that does not answer.

        Raises:
            OSError: The lines could not be written. The journal is unchanged; the error names it.
        """
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        size = patiently(lambda: self._path.stat().st_size)
        try:
            patiently(lambda: self._write("".join(lines).encode(), size))
        except OSError as error:
            error.filename = str(self._path)  # the error of a failed write names no file
            raise

    def _write(self, content: bytes, size: int) -> None:
        with self._path.open("r+b", buffering=0) as file:
            try:
                write_at(file.fileno(), content, size)
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(size)
                raise


def repair(path: Path) -> None:
    """Remove what a killed driver leaves: an incomplete last line, and the lock beside the file.

    Args:
        path: Path of a journal that no other driver writes to; it may be missing.
    """
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
