"""Finished stages in storage that every node reaches, and saved states of unfinished ones."""

from __future__ import annotations

import fnmatch
import hashlib
import logging
import re
import shutil
from pathlib import Path

from models.files.atomic_file import write_atomically
from trainables.artifacts.artifact_files import RESULT_FILE, SHARE_FILES
from trainables.artifacts.remote_folder import RemoteFolder, StorageError

logger = logging.getLogger(__name__)

STAGES_FOLDER = "stages"
STATE_PATIENCE_SECONDS = 30.0  # a training waits no longer; it will save its next state anyway
_STATE = re.compile(r"([0-9a-f]{64})\.(.+)")  # checksum and file name of a saved state


class RemoteStages:
    """Folders `<stage>-<key>`, as in `ArtifactStore`, and `<stage>-<key>.partial`.

    `result.json` is uploaded last, and without it there is no artefact. It contains the checksums
    of the other files, so the node that downloads an artefact notices any damage.

    A `.partial` folder holds the last saved state of an unfinished training, with its checksum in
    its name, and the results of the rungs before it. It is deleted once the artefact is uploaded.

    Args:
        remote: Folder of all artefacts.
    """

    def __init__(self, remote: RemoteFolder) -> None:
        self._remote = remote
        self._published: set[str] = set()

    def fetch(self, name: str, folder: Path) -> bool:
        """Download an artefact; its checksums are not verified here.

        Args:
            name: Name of its folder in storage.
            folder: Local folder to download to; one that exists is replaced.

        Returns:
            Whether there is such an artefact.

        Raises:
            StorageError: The storage refuses.
        """
        there = self._remote / name
        try:
            result = there.read(RESULT_FILE)
        except FileNotFoundError:
            return False
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file in there.list():
            if file != RESULT_FILE:
                there.fetch(file, folder / file)
        write_atomically(folder / RESULT_FILE, result)
        self._published.add(name)
        return True

    def fetch_record(self, name: str, folder: Path) -> None:
        """Download the results of an artefact and of its rungs, without its networks.

        Args:
            name: Name of its folder in storage.
            folder: Local folder to download to.

        Raises:
            OSError: There is no such artefact, or the storage does not respond at once.
        """
        there = (self._remote / name).with_patience(0)
        for file in [*fnmatch.filter(there.list(), SHARE_FILES), RESULT_FILE]:
            there.fetch(file, folder / file)

    def publish(self, folder: Path) -> None:
        """Upload an artefact unless storage has it, and delete the saved states that led to it.

        Args:
            folder: Local folder of the artefact; the folder in storage gets the same name.

        Raises:
            StorageError: The storage refuses.
        """
        name = folder.name
        if name in self._published:
            return
        there = self._remote / name
        if not there.exists(RESULT_FILE):
            for path in sorted(folder.iterdir()):
                if path.is_file() and path.name != RESULT_FILE:
                    there.put(path)
            there.put(folder / RESULT_FILE)
        self.discard_partial(name)
        self._published.add(name)

    def withdraw(self, name: str) -> None:
        """Hide a damaged artefact, so that it is computed and uploaded again."""
        self._published.discard(name)
        (self._remote / name).delete(RESULT_FILE)

    def remove(self, name: str) -> None:
        """Delete an artefact, its `result.json` first, so that no reader sees a part of it."""
        self.withdraw(name)
        for file in (there := self._remote / name).list():
            there.delete(file)

    def remove_partials(self) -> None:
        """Delete the saved states of every unfinished stage."""
        for name in self._remote.list():
            if name.partition("/")[0].endswith(".partial"):
                self._remote.delete(name)

    def keep_state(self, path: Path) -> None:
        """Upload a saved state, after the results of earlier rungs; it replaces the state before.

        If the storage refuses, a warning is logged and the training continues. The state is then
        lost only if this node is lost too.

        Args:
            path: File of the state, in a folder `<stage>-<key>.partial`.
        """
        there = (self._remote / path.parent.name).with_patience(STATE_PATIENCE_SECONDS)
        data = path.read_bytes()
        new = f"{hashlib.sha256(data).hexdigest()}.{path.name}"
        try:
            before = there.list()
            # Without the result of a rung, a later state would be mistaken for the state at that
            # rung.
            for share in sorted(path.parent.glob(SHARE_FILES)):
                if share.name not in before:
                    there.put(share)
            there.write(new, data)
            for name in before:
                if _STATE.fullmatch(name) and name != new:
                    there.delete(name)
        except StorageError as error:
            logger.warning("the state of %s stays on this node: %s", path.parent.name, error)

    def keep_share(self, path: Path) -> None:
        """Upload the result of a rung.

        Args:
            path: File of the result, in a folder `<stage>-<key>.partial`.

        Raises:
            StorageError: The storage refuses.
        """
        (self._remote / path.parent.name).put(path)

    def fetch_partial(self, folder: Path) -> None:
        """Download what other nodes saved of an unfinished stage, unless this node is ahead.

        Args:
            folder: Local folder `<stage>-<key>.partial`.

        Raises:
            StorageError: The storage refuses.
        """
        there = self._remote / folder.name
        states: list[tuple[float, str, str]] = []
        for name, written in there.list().items():
            if found := _STATE.fullmatch(name):
                states.append((written, found[1], found[2]))
            elif not (folder / name).exists():
                there.fetch(name, folder / name)
        for written, checksum, name in sorted(states, reverse=True):
            local = folder / name
            if local.exists() and local.stat().st_mtime >= written:
                return
            data = there.read(f"{checksum}.{name}")
            if hashlib.sha256(data).hexdigest() == checksum:
                write_atomically(local, data)
                return
            logger.warning("a saved state of %s is damaged in storage and is ignored", folder.name)

    def discard_partial(self, name: str) -> None:
        """Delete the saved states of an unfinished stage.

        Args:
            name: Name of the artefact that the stage would have become.

        Raises:
            StorageError: The storage refuses.
        """
        there = self._remote / f"{name}.partial"
        for file in there.list():
            there.delete(file)
