"""A folder in storage that pyarrow reaches: S3, Google Cloud, Azure, or a disk (`file://`).

`python -m trainables.artifacts.remote_folder URI DIR` fetches a whole folder, such as a run.

Nobody sees a half-written file: an object store shows an upload when it is whole, and on any other
file system a temporary file is renamed. What fails is tried again for a while, so that a storage
that does not answer for a minute delays and loses nothing.
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
READ_BACK_BYTES = 1 << 20  # up to so many, what was written is read again and compared
SECRET_NAMES = re.compile(r"secret|passw|token|key|sig|sas", re.IGNORECASE)


class StorageError(OSError):
    """The storage refused for as long as it was tried; the message names it and the reason."""


def is_uri(text: str) -> bool:
    """Whether a place is a URI rather than a path."""
    return "://" in text


class RemoteFolder:
    """Objects below one place; names may lead into folders (`report/index.html`).

    Args:
        uri: As `pyarrow.fs.FileSystem.from_uri` takes it, without credentials: those come from the
            environment, the user's files or the machine's role, and are written nowhere.
        patience_seconds: How long what fails is tried again; 0: not at all.

    Attributes:
        uri: As given, without a slash at the end of its path.

    Raises:
        ValueError: The URI bears credentials, or pyarrow does not know such storage.
        OSError: The storage does not answer.
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
        """The folder that this one lies in."""
        above = urlsplit(self.uri).path.rpartition("/")[0]
        return self._at(above, self._path.rpartition("/")[0])

    @property
    def name(self) -> str:
        """Last part of the path."""
        return unquote(urlsplit(self.uri).path.rpartition("/")[2])

    def with_patience(self, seconds: float) -> RemoteFolder:
        """The same folder, tried for another time."""
        other = copy.copy(self)
        other._patience = seconds
        return other

    def read(self, name: str) -> bytes:
        """Read an object.

        Raises:
            FileNotFoundError: There is none.
            StorageError: The storage refuses.
        """
        return self._patiently(lambda: self._read(name))

    def write(self, name: str, data: bytes) -> None:
        """Write an object, whole or not at all, in place of one of this name.

        Raises:
            StorageError: The storage refuses, or holds something else afterwards.
        """
        self._patiently(lambda: self._write(name, data), may_be_missing=False)

    def fetch(self, name: str, local: Path) -> None:
        """Write an object's bytes to a local file, whole or not at all; as `read` otherwise."""
        data = self.read(name)
        local.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(local, data)

    def put(self, local: Path, name: str = "") -> None:
        """Write a local file's bytes, by default under its own name; as `write` otherwise."""
        self.write(name or local.name, local.read_bytes())

    def exists(self, name: str) -> bool:
        """Whether there is such an object.

        Raises:
            StorageError: The storage refuses.
        """
        found = self._patiently(lambda: self._filesystem.get_file_info(f"{self._path}/{name}"))
        return bool(found.type == fs.FileType.File)

    def list(self) -> dict[str, float]:
        """Names of all objects below here, with the time of their writing (s since 1970).

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
                raise StorageError(f"{self.uri} holds {name!r}, which leads out of it")
        return names

    def delete(self, name: str) -> None:
        """Remove an object, if there is one.

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
        self.write(name, name.encode())  # reads it again
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
            # Seen with servers that take a checksum at an upload's end for a part of it.
            raise OSError(
                f"{name} is not what was written; for a server that knows no checksums set "
                "AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
            )

    def _upload(self, path: str, data: bytes) -> None:
        # By its name, pyarrow would compress a .gz.
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
    """Make sure that a URI can be shown and passed on.

    Raises:
        ValueError: It bears credentials; the message does not repeat them.
    """
    names = [name for name, _ in parse_qsl(urlsplit(uri).query, keep_blank_values=True)]
    # A secret may hold a slash, so that what looks like a path can be a part of one.
    has_user = "@" in uri if uri.startswith("s3:") else re.search(r"://[^@]*:[^@]*@", uri)
    if has_user or any(SECRET_NAMES.search(name) for name in names):
        raise ValueError(
            f"the {uri.partition(':')[0]} URI must bear no credentials (@, passwords, keys, "
            "tokens); give them by the environment (AWS_ACCESS_KEY_ID, ...), ~/.aws or the "
            "machine's role"
        )


def _open(uri: str) -> tuple[Any, str]:
    """File system of a URI, and the path in it."""
    filesystem, path = fs.FileSystem.from_uri(uri)
    if filesystem.type_name == "s3":
        # The same once more: by a URI, it would itself try for half a minute before it fails.
        options = dict(parse_qsl(urlsplit(uri).query))
        filesystem = fs.S3FileSystem(
            region=filesystem.region,
            scheme=options.get("scheme", "https"),
            endpoint_override=options.get("endpoint_override"),
            retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=2),
            allow_delayed_open=True,  # small objects in one request
            connect_timeout=CONNECT_SECONDS,
            request_timeout=REQUEST_SECONDS,
        )
    return filesystem, path.rstrip("/")


def _is_temporary(path: str) -> bool:
    name = path.rpartition("/")[2]
    return name.startswith(".") and name.endswith(".tmp")


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch a folder: `URI DIR`.

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
