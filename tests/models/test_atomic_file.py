from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from models.files.atomic_file import write_atomically


def test_texts_and_bytes_are_written_as_they_are(tmp_path: Path):
    path = tmp_path / "file"
    write_atomically(path, "größer\r\n")
    assert path.read_bytes() == "größer\r\n".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "file"
    write_atomically(path, "old")

    def fail(_: int) -> None:
        assert path.read_text() == "old"
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match=f"no space left: '{path}'"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_storage_that_does_not_answer_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "file"
    write_atomically(path, "old")
    answers = iter((errno.EIO, errno.ESTALE, None, None))
    fsync = os.fsync

    def answer(descriptor: int) -> None:
        number = next(answers)
        if number is not None:
            raise OSError(number, "the server is away")
        fsync(descriptor)

    monkeypatch.setattr("os.fsync", answer)
    monkeypatch.setattr("models.files.storage.time.sleep", lambda seconds: None)
    write_atomically(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]
