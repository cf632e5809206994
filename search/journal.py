"""Optuna's journal on a disk that may be full and a storage that may not answer."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend

from models.storage import patiently
from trainables.data.node_cache import write_at


class SafeJournal(JournalFileBackend):
    """A journal to which lines are added whole or not at all.

    Optuna's own leaves half a line where the disk is full; the next line would make it unreadable.

    Differs: it takes no lock of its own, for the driver holds the run's folder.

    Args:
        path: Of the journal, made if missing.
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
                with contextlib.suppress(OSError):
                    file.truncate(size)
                raise
