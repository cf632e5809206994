"""Finished stages by content key: computed once, found again, published whole or not at all."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
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


class Artifact(NamedTuple):
    """A finished stage.

    Attributes:
        folder: Where its files lie.
        result: What the stage measured, JSON-able.
        reused: Whether it was found rather than computed.
    """

    folder: Path
    result: dict[str, Any]
    reused: bool

    @property
    def checkpoint(self) -> Path:
        """The network that the stage made, if it made one."""
        return self.folder / "checkpoint.safetensors"


def content_key(content: object) -> str:
    """20 hexadecimal digits over JSON-able content, the same wherever it is computed."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:20]


class ArtifactStore:
    """Folders `<stage>-<key>` below one root.

    A stage works in `<stage>-<key>.partial`, which survives a killed process so that the next one
    goes on there; when it has ended, the result with the checksums of all files is written and the
    folder is renamed. A lock per key keeps two processes from computing the same stage: of all
    nodes that share the root, or of one node where every node has a root of its own and `remote`
    joins them.

    With `remote`, an artefact is whole there before it is returned. Nothing but the driver, which
    schedules a stage once, keeps two nodes from computing the same one; if they do (one was given
    up and lives on), the first that has been uploaded whole stays. Should their uploads have mixed,
    the checksums say so, and the stage is computed again.

    Args:
        root: Folder of the store, made if missing; on a local disk or another POSIX file system.
        remote: Storage that other nodes reach too; None: the root is all there is.
    """

    def __init__(self, root: Path, remote: RemoteStages | None = None) -> None:
        self.root = root
        self._remote = remote
        (root / ".locks").mkdir(parents=True, exist_ok=True)

    def find(self, stage: str, key: str) -> Artifact | None:
        """Return a finished stage whose files are intact; a damaged one is set aside and reported.

        Args:
            stage: Name of the stage.
            key: Its content key.
        """
        name = f"{stage}-{key}"
        found = self._read(self.root / name)
        if self._remote is None:
            return found
        if found is not None:
            self._remote.publish(found.folder)  # whoever computed it may have died before that
            return found
        with self._lock(f"{name}.fetched"):
            found = self._read(self.root / name)  # another process may have been first
            return found if found is not None else self._fetch(name, self._remote)

    def obtain(self, stage: str, key: str, compute: Callable[[Path], dict[str, Any]]) -> Artifact:
        """Find a stage or compute it; waits while another process computes it.

        Args:
            stage: Name of the stage.
            key: Its content key.
            compute: Fills the folder that it is given, which may hold the files of an interrupted
                attempt, and returns the JSON-able result.

        Raises:
            Exception: Whatever `compute` raises; its folder stays for the next attempt.
        """
        name = f"{stage}-{key}"
        with self._lock(name):
            found = self.find(stage, key)
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
        """Work on a stage without ending it, or find what came of that before.

        Args:
            stage: Name of the stage.
            key: Its content key.
            share: Names the point up to which is worked.
            compute: Works in the folder that it is given and returns the JSON-able result.

        Returns:
            The result at that point; that of the whole stage if it ended without this point.

        Raises:
            Exception: Whatever `compute` raises; the folder stays for the next attempt.
        """
        name = f"{stage}-{key}"
        with self._lock(name):
            found = self.find(stage, key)
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
        """Forget an unfinished attempt, such as one whose saved state is damaged."""
        name = f"{stage}-{key}"
        shutil.rmtree(self.root / f"{name}.partial", ignore_errors=True)
        if self._remote is not None:
            self._remote.discard_partial(name)

    def keep_state(self, path: Path) -> None:
        """Bring the saved state of an unfinished stage to where other nodes find it.

        Args:
            path: In the folder that the stage works in.
        """
        if self._remote is not None:
            self._remote.keep_state(path)

    def _open_partial(self, name: str) -> Path:
        """The folder of an unfinished stage, with what this node or another one left of it."""
        partial = self.root / f"{name}.partial"
        partial.mkdir(exist_ok=True)
        if self._remote is not None:
            self._remote.fetch_partial(partial)
        return partial

    def _fetch(self, name: str, remote: RemoteStages) -> Artifact | None:
        """Download an artefact; a damaged one is set aside here and withdrawn there."""
        fetched = self.root / f"{name}.fetched"
        if not remote.fetch(name, fetched):
            return None
        found = self._read(fetched)
        if found is None:
            remote.withdraw(name)
            return None
        return found._replace(folder=fetched.replace(self.root / name))

    def _read(self, folder: Path) -> Artifact | None:
        """Read an artefact here if it is intact; a damaged one is set aside and reported."""
        if not folder.is_dir():
            return None
        try:
            record = patiently(lambda: _read_intact(folder))
        except (OSError, ValueError, KeyError) as error:
            damaged = folder.with_name(f"{folder.name}.damaged-{os.getpid()}-{os.urandom(2).hex()}")
            logger.warning("%s is damaged (%s): set aside as %s", folder, error, damaged.name)
            folder.replace(damaged)
            return None
        return Artifact(folder, record["result"], reused=True)

    def _lock(self, name: str) -> AbstractContextManager[None]:
        return locked(self.root / ".locks" / name)


def open_store(root: Path, remote: str | None) -> ArtifactStore:
    """Open the store of a run.

    Args:
        root: Folder of the store on this node.
        remote: URI of the artefacts if they lie in storage; None if all nodes share the root.

    Raises:
        OSError: The storage does not answer.
    """
    return ArtifactStore(root, None if remote is None else RemoteStages(RemoteFolder(remote)))


def is_plain_name(name: str) -> bool:
    """Say whether a text names something in a folder and cannot lead out of it."""
    return name not in ("", "..") and Path(name).name == name


def _read_intact(folder: Path) -> dict[str, Any]:
    """Read the record of a finished stage and all of its files.

    Raises:
        ValueError: A file is another one than when it was written.
    """
    record: dict[str, Any] = json.loads((folder / RESULT_FILE).read_text())
    for name, expected in record["files"].items():
        if not is_plain_name(name):
            raise ValueError(f"{name!r} is no file of this folder")
        if checksum(folder / name) != expected:
            raise ValueError(f"{name} has another checksum than when it was written")
    return record


def _remove_leftovers(partial: Path) -> None:
    """Remove what an attempt left that was killed while it wrote a file."""
    for path in partial.glob(".*.tmp"):
        path.unlink(missing_ok=True)
