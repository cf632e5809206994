"""The file of the Optuna study: what belongs together is written at once, whole or not at all."""

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
    """Optuna's journal file, with changes that go to the disk together.

    Optuna writes each change by itself and waits for the disk: a suggested pipeline is a dozen
    changes, the end of a search with rungs thousands. Within `batch` they are known to Optuna at
    once and written in one go at its end; a driver that is killed meanwhile leaves none of them.

    Args:
        path: The file, made if missing. Other processes may read and write it too.
    """

    def __init__(self, path: Path) -> None:
        self._lock = JournalFileSymlinkLock(str(path))
        self._file = WholeLineBackend(path)
        self._num_lines = 0  # of the file, as far as it has been read
        self._waiting: list[dict[str, Any]] | None = None

    @contextmanager
    def batch(self) -> Iterator[list[dict[str, Any]]]:
        """Write what is appended within at the end; meanwhile no other process writes.

        Yields:
            What will be written.
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
            waiting += json.loads(json.dumps(logs))  # as they will be read

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
        """Count lines that are new, and let Optuna's backend learn where they begin."""
        self._num_lines += sum(1 for _ in self._file.read_logs(self._num_lines))


class WholeLineBackend(JournalFileBackend):
    """Optuna's own leaves half a line where the disk is full; the next line makes it unreadable.

    Differs: it takes no lock, for the caller holds it.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add lines; a storage that does not answer is waited for.

        Raises:
            OSError: They could not be written; the journal is as it was, and the error names it.
        """
        lines = [json.dumps(log, separators=(",", ":")) + "\n" for log in logs]
        size = patiently(lambda: self._path.stat().st_size)
        try:
            patiently(lambda: self._write("".join(lines).encode(), size))
        except OSError as error:
            error.filename = str(self._path)  # a write that fails names no file
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
    """Remove what a killed driver leaves: a torn last line, and the lock beside the file.

    Args:
        path: Of a journal that no other driver writes to; it may be missing.
    """
    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    if content and not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
