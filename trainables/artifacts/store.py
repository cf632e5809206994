"""A store of finished stages by content key; each is computed once and appears complete."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

from models.files.atomic_file import write_atomically
from models.files.storage import patiently
from trainables.artifacts.artifact_files import RESULT_FILE, SHARE_FILES
from trainables.artifacts.checksum import checksum
from trainables.artifacts.remote_folder import RemoteFolder
from trainables.artifacts.remote_stages import RemoteStages
from trainables.process.file_lock import locked

logger = logging.getLogger(__name__)

DAMAGE = (FileNotFoundError, NotADirectoryError, ValueError, KeyError)
"""Errors of `_read` that say that an artefact is damaged."""


class Artifact(NamedTuple):
    """A finished stage.

    Attributes:
        folder: Folder of its files.
        result: Measurements of the stage, as JSON-serialisable values.
        reused: Whether it was found in the store rather than computed.
    """

    folder: Path
    result: dict[str, Any]
    reused: bool

    @property
    def checkpoint(self) -> Path:
        """File of the network that the stage made, if it made one."""
        return self.folder / "checkpoint.safetensors"


def content_key(content: object) -> str:
    """Hash JSON-serialisable content to 20 hexadecimal digits, the same on every machine."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class ArtifactStore:
    """Folders `<stage>-<key>` below one root folder.

    A stage works in `<stage>-<key>.partial`. That folder survives a killed process, and the next
    process continues there. When the stage has ended, its result and the checksums of all files are
    written, and the folder is renamed. A lock per key keeps two processes from computing the same
    stage. It covers all nodes that share the root; where each node has its own root and `remote`
    joins them, it covers one node.

    With `remote`, an artefact is returned only once it is completely in storage. The driver
    schedules each stage once, but two nodes can still compute the same stage, if one of them was
    given up and lives on. Then the first complete upload stays. If the two uploads have mixed, the
    checksums reveal it, and the stage is computed again.

    Args:
        root: Folder of the store, made if missing; on a local disk or another POSIX file system.
        remote: Storage that other nodes can reach too; None if there is only the root.
    """

    def __init__(self, root: Path, remote: RemoteStages | None = None) -> None:
        self.root = root
        self._remote = remote
        (root / ".locks").mkdir(parents=True, exist_ok=True)

    def find(self, stage: str, key: str) -> Artifact | None:
        """Return a finished stage whose files are intact, or None.

        A damaged stage is set aside, and a warning is logged.

        Args:
            stage: Name of the stage.
            key: Its content key.
        """
        name = f"{stage}-{key}"
        try:
            found = _read(self.root / name)
        except DAMAGE:
            with self._lock(name):  # another process may have computed it again meanwhile
                return self._find(name)
        return self._complete(name, found)

    def _find(self, name: str) -> Artifact | None:
        """Find a stage whose lock this process holds; a damaged one is set aside."""
        return self._complete(name, _read_or_set_aside(self.root / name))

    def _complete(self, name: str, found: Artifact | None) -> Artifact | None:
        """Upload a stage that was found here; download one that was not."""
        if self._remote is None:
            return found
        if found is not None:
            self._remote.publish(found.folder)  # the process that computed it may have died before
            return found
        with self._lock(f"{name}.fetched"):
            found = _read_or_set_aside(self.root / name)  # another process may have been first
            return found if found is not None else self._fetch(name, self._remote)

    def obtain(self, stage: str, key: str, compute: Callable[[Path], dict[str, Any]]) -> Artifact:
        """Find a finished stage, or compute it; waits while another process computes it.

        Args:
            stage: Name of the stage.
            key: Its content key.
            compute: Function that fills the folder it is given, which may contain files of an
                interrupted attempt, and returns the JSON-serialisable result.

        Raises:
            Exception: Whatever `compute` raises; the folder stays for the next attempt.
        """
        name = f"{stage}-{key}"
        with self._lock(name):
            found = self._find(name)
            if found is not None:
                return found
            partial = self._open_partial(name)
            (partial / RESULT_FILE).unlink(missing_ok=True)
            _remove_leftovers(partial)
            result = compute(partial)
            files = {
                path.name: checksum(path) for path in sorted(partial.iterdir()) if path.is_file()
            }
            record = json.dumps({"result": result, "files": files}, indent=1)
            write_atomically(partial / RESULT_FILE, record)
            folder = partial.replace(self.root / name)
            if self._remote is not None:
                self._remote.publish(folder)
            return Artifact(folder, result, reused=False)

    def advance(
        self, stage: str, key: str, share: float, compute: Callable[[Path], dict[str, Any]]
    ) -> dict[str, Any]:
        """Run a stage up to a pause, or find the result of that pause.

        Args:
            stage: Name of the stage.
            key: Its content key.
            share: Fraction of the stage's work after which it pauses, in 0..1.
            compute: Function that works in the given folder and returns the JSON-serialisable
                result.

        Returns:
            The result at the pause, or that of the whole stage if it ended without this pause.

        Raises:
            Exception: Whatever `compute` raises; the folder stays for the next attempt.
        """
        name = f"{stage}-{key}"
        with self._lock(name):
            found = self._find(name)
            folder = found.folder if found is not None else self._open_partial(name)
            path = folder / SHARE_FILES.replace("*", f"{share:g}")
            if path.exists():
                result: dict[str, Any] = json.loads(path.read_text())
                return result
            if found is not None:
                return found.result
            _remove_leftovers(folder)
            result = compute(folder)
            write_atomically(path, json.dumps(result))
            if self._remote is not None:
                self._remote.keep_share(path)
            return result

    def discard_partial(self, stage: str, key: str) -> None:
        """Set aside an unfinished attempt whose saved state is damaged; delete it in storage."""
        name = f"{stage}-{key}"
        with self._lock(name):  # another study may work in this folder
            partial = self.root / f"{name}.partial"
            if partial.is_dir():
                partial.replace(_name_damaged(partial))
            if self._remote is not None:
                self._remote.discard_partial(name)

    def keep_state(self, path: Path) -> None:
        """Upload the saved state of an unfinished stage, if there is storage.

        Args:
            path: File of the state, in the folder that the stage works in.
        """
        if self._remote is not None:
            self._remote.keep_state(path)

    def _open_partial(self, name: str) -> Path:
        """Return the folder of an unfinished stage, with the files that any node has saved."""
        partial = self.root / f"{name}.partial"
        partial.mkdir(exist_ok=True)
        if self._remote is not None:
            self._remote.fetch_partial(partial)
        return partial

    def _fetch(self, name: str, remote: RemoteStages) -> Artifact | None:
        """Download an artefact; a damaged one is set aside here and hidden in storage."""
        fetched = self.root / f"{name}.fetched"
        if not remote.fetch(name, fetched):
            return None
        found = _read_or_set_aside(fetched)
        if found is None:
            remote.withdraw(name)
            return None
        return found._replace(folder=fetched.replace(self.root / name))

    def _lock(self, name: str) -> AbstractContextManager[None]:
        return locked(self.root / ".locks" / name)


def open_store(root: Path, remote: str | None) -> ArtifactStore:
    """Open the store of a run.

    Args:
        root: Folder of the store on this node.
        remote: URI of the artefacts in storage; None if all nodes share the root.

    Raises:
        OSError: The storage does not respond.
    """
    return ArtifactStore(root, None if remote is None else RemoteStages(RemoteFolder(remote)))


def is_plain_name(name: str) -> bool:
    """Return whether a text is the name of an entry of a folder and cannot point outside it."""
    return name not in ("", "..") and Path(name).name == name


def _name_damaged(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.damaged-{os.getpid()}-{os.urandom(2).hex()}")


def _read(folder: Path) -> Artifact | None:
    """Read a local artefact; None if there is none.

    Raises:
        Exception: It is damaged, if this is one of `DAMAGE`.
        OSError: It cannot be read, which does not say that it is damaged.
    """
    if not folder.is_dir():
        return None
    record = patiently(lambda: _read_intact(folder))
    return Artifact(folder, record["result"], reused=True)


def _read_or_set_aside(folder: Path) -> Artifact | None:
    """Read a local artefact; a damaged one is set aside, and a warning is logged.

    The caller holds the artefact's lock.

    Raises:
        OSError: It cannot be read, which does not say that it is damaged.
    """
    try:
        return _read(folder)
    except DAMAGE as error:
        damaged = _name_damaged(folder)
        logger.warning("%s is damaged (%s): set aside as %s", folder, error, damaged.name)
        folder.replace(damaged)
        return None


def _read_intact(folder: Path) -> dict[str, Any]:
    """Read the record of a finished stage and all of its files.

    Raises:
        ValueError: A file has changed since it was written.
    """
    record: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text())
    for name, expected in record["files"].items():
        if not is_plain_name(name):
            raise ValueError(f"{name!r} is not a file of this folder")
        if checksum(folder / name) != expected:
            raise ValueError(f"{name} has another checksum than when it was written")
    return record


def _remove_leftovers(partial: Path) -> None:
    """Remove temporary files of an attempt that was killed while it wrote."""
    for path in partial.glob(".*.tmp"):
        path.unlink(missing_ok=True)
