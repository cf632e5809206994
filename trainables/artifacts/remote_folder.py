"""A folder in storage that pyarrow supports: S3, Google Cloud, Azure, or a disk (`file://`).

`python -m trainables.artifacts.remote_folder URI DIR` downloads a whole folder, such as a run.

No reader sees a half-written file: an object store shows an upload once it is complete, and on any
other file system a temporary file is renamed. An operation that fails is tried again for a while. A
storage that does not respond for a minute therefore causes a delay and no loss.

We use pyarrow instead of fsspec, because Ray Tune uses pyarrow for storage, and pyarrow needs no
further package for any of these. The retries and checks below would be needed with either.
"""

from __future__ import annotations

import copy
import re
import secrets
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from pyarrow import fs

from models.files.atomic_file import write_atomically
from trainables.process.watchdog import note_progress

T = TypeVar("T")

OBJECT_STORES = ("s3", "gcs", "abfs")
PATIENCE_SECONDS = 300.0
CONNECT_SECONDS, REQUEST_SECONDS = 5.0, 60.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.5, 15.0
READ_BACK_BYTES = 1 << 20  # objects up to this size are read back and compared after a write
SECRET_NAMES = re.compile(r"secret|passw|token|key|sig|sas", re.IGNORECASE)


class StorageError(OSError):
    """The storage refused every attempt; the message names the storage and the reason."""


def is_uri(text: str) -> bool:
    """Return whether a text is a URI rather than a path."""
    return "://" in text


class RemoteFolder:
    """The objects below one URI; their names may contain folders (`report/index.html`).

    Args:
        uri: Location that `pyarrow.fs.FileSystem.from_uri` accepts, without credentials. Those come
            from the environment, the user's files or the machine's role, and are never written
            anywhere.
        patience_seconds: How long a failing operation is tried again; 0 for a single attempt.

    Attributes:
        uri: The URI as given, without a slash at the end of its path.

    Raises:
        ValueError: The URI contains credentials, or pyarrow does not know this kind of storage.
        OSError: The storage does not respond.
    """

    def __init__(self, uri: str, patience_seconds: float = PATIENCE_SECONDS) -> None:
        refuse_credentials(uri)
        parts = urlsplit(uri)
        self.uri = urlunsplit(parts._replace(path=parts.path.rstrip("/")))
        self._filesystem, self._path = _open(self.uri)
        self._patience = patience_seconds

    def __truediv__(self, name: str) -> RemoteFolder:
        parts = urlsplit(self.uri)
        return self._at(f"{parts.path}/{quote(name)}", f"{self._path}/{name}")

    @property
    def parent(self) -> RemoteFolder:
        """The folder that contains this one."""
        above = urlsplit(self.uri).path.rpartition("/")[0]
        return self._at(above, self._path.rpartition("/")[0])

    @property
    def name(self) -> str:
        """The last part of the path."""
        return unquote(urlsplit(self.uri).path.rpartition("/")[2])

    def with_patience(self, seconds: float) -> RemoteFolder:
        """Return the same folder with another patience."""
        other = copy.copy(self)
        other._patience = seconds
        return other

    def read(self, name: str) -> bytes:
        """Read an object.

        Raises:
            FileNotFoundError: There is no such object.
            StorageError: The storage refuses.
        """
        return self._patiently(lambda: self._read(name))

    def write(self, name: str, data: bytes) -> None:
        """Write an object completely or not at all; an existing object of this name is replaced.

        Raises:
            StorageError: The storage refuses, or holds something else than what was written.
        """
        self._patiently(lambda: self._write(name, data), may_be_missing=False)

    def fetch(self, name: str, local: Path) -> None:
        """Download an object to a local file, completely or not at all; fails as `read` does."""
        data = self.read(name)
        local.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(local, data)

    def put(self, local: Path, name: str = "") -> None:
        """Upload a local file, by default under its own name; fails as `write` does."""
        self.write(name or local.name, local.read_bytes())

    def exists(self, name: str) -> bool:
        """Return whether there is such an object.

        Raises:
            StorageError: The storage refuses.
        """
        found = self._patiently(lambda: self._filesystem.get_file_info(f"{self._path}/{name}"))
        return bool(found.type == fs.FileType.File)

    def list(self) -> dict[str, float]:
        """Return the name of every object below here, and when it was written (s since 1970).

        Raises:
            StorageError: The storage refuses, or a name leads out of the folder.
        """
        selector = fs.FileSelector(self._path, recursive=True, allow_not_found=True)
        found = self._patiently(lambda: self._filesystem.get_file_info(selector))
        names = {
            entry.path.removeprefix(f"{self._path}/"): entry.mtime_ns / 1e9
            for entry in found
            if entry.type == fs.FileType.File and not _is_temporary(entry.path)
        }
        for name in names:
            if ".." in PurePosixPath(name).parts or name.startswith("/"):
                raise StorageError(f"{self.uri} holds {name!r}, which points outside the folder")
        return names

    def delete(self, name: str) -> None:
        """Delete an object, if there is one.

        Raises:
            StorageError: The storage refuses.
        """
        try:
            self._patiently(lambda: self._filesystem.delete_file(f"{self._path}/{name}"))
        except FileNotFoundError:
            return

    def check(self) -> None:
        """Write, read and delete a small object.

        Raises:
            StorageError: One of them fails.
        """
        name = f".check-{secrets.token_hex(8)}"
        self.write(name, name.encode())  # reads it back
        self.delete(name)

    def _at(self, uri_path: str, path: str) -> RemoteFolder:
        other = copy.copy(self)
        other.uri = urlunsplit(urlsplit(self.uri)._replace(path=uri_path))
        other._path = path
        return other

    def _read(self, name: str) -> bytes:
        with self._filesystem.open_input_file(f"{self._path}/{name}") as file:
            data: bytes = file.read()
            if len(data) != file.size():
                raise OSError(f"{name} ended after {len(data)} of {file.size()} bytes")
        return data

    def _write(self, name: str, data: bytes) -> None:
        path = f"{self._path}/{name}"
        if self._filesystem.type_name in OBJECT_STORES:
            self._upload(path, data)
        else:
            folder, _, last = path.rpartition("/")
            temporary = f"{folder}/.{last}.{secrets.token_hex(4)}.tmp"
            self._filesystem.create_dir(folder, recursive=True)
            self._upload(temporary, data)
            self._filesystem.move(temporary, path)
        if len(data) > READ_BACK_BYTES:
            intact = self._filesystem.get_file_info(path).size == len(data)
        else:
            intact = self._read(name) == data
        if not intact:
            # Some servers store the checksum that follows an upload as part of the object.
            raise OSError(
                f"{name} is not what was written; for a server that does not support checksums set "
                "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
            )

    def _upload(self, path: str, data: bytes) -> None:
        # Without this, pyarrow compresses an object whose name ends in .gz.
        with self._filesystem.open_output_stream(path, compression=None) as file:
            file.write(data)

    def _patiently(self, act: Callable[[], T], *, may_be_missing: bool = True) -> T:
        deadline, pause = time.monotonic() + self._patience, FIRST_PAUSE_SECONDS
        while True:
            try:
                return act()
            except OSError as error:
                if isinstance(error, FileNotFoundError) and may_be_missing:
                    raise
                if time.monotonic() + pause > deadline:
                    raise StorageError(f"{self.uri}: {' '.join(str(error).split())}") from error
            note_progress("an attempt to reach the storage")
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)


def refuse_credentials(uri: str) -> None:
    """Make sure that a URI can be shown to anybody.

    Raises:
        ValueError: The URI contains credentials; the message does not repeat them.
    """
    names = [name for name, _ in parse_qsl(urlsplit(uri).query, keep_blank_values=True)]
    # A secret may contain a slash, so what looks like a path can be a part of the secret.
    has_user = "@" in uri if uri.startswith("s3:") else re.search(r"://[^@]*:[^@]*@", uri)
    if has_user or any(SECRET_NAMES.search(name) for name in names):
        raise ValueError(
            f"the {uri.partition(':')[0]} URI must not contain credentials (@, passwords, keys, "
            "tokens); set them in the environment (AWS_ACCESS_KEY_ID, ...), ~/.aws or the "
            "machine's role"
        )


def _open(uri: str) -> tuple[Any, str]:
    """Return the file system of a URI, and the path in it."""
    filesystem, path = fs.FileSystem.from_uri(uri)
    if filesystem.type_name == "s3":
        # Open it again with options; opened by URI, it retries internally for half a minute.
        options = dict(parse_qsl(urlsplit(uri).query))
        filesystem = fs.S3FileSystem(
            region=filesystem.region,
            scheme=options.get("scheme", "https"),
            endpoint_override=options.get("endpoint_override"),
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
            allow_delayed_open=True,  # sends a small object in one request
            connect_timeout=CONNECT_SECONDS,
            request_timeout=REQUEST_SECONDS,
        )
    return filesystem, path.rstrip("/")


def _is_temporary(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".tmp")


def main(argv: Sequence[str] | None = None) -> int:
    """Download a folder: `URI DIR`.

    Returns:
        Exit status: 0, 1 if the storage failed, 2 for bad input.
    """
    given = list(sys.argv[1:] if argv is None else argv)
    if len(given) != 2:
        sys.stderr.write("usage: python -m trainables.artifacts.remote_folder URI DIR\n")
        return 2
    try:
        remote = RemoteFolder(given[0], patience_seconds=30)
        names = remote.list()
        for name in names:
            remote.fetch(name, Path(given[1]) / name)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2 if isinstance(error, ValueError) else 1
    sys.stdout.write(f"{len(names)} files in {given[1]}\n")
    return 0 if names else 1


if __name__ == "__main__":
    sys.exit(main())
