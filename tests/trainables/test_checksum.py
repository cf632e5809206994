import hashlib
import os
import time

import pytest

from trainables.artifacts import checksum as module
from trainables.artifacts.checksum import checksum


@pytest.fixture
def old_file(tmp_path):
    """Written long enough ago, as the clock of `checksum` has it."""
    path = tmp_path / "file"
    path.write_text("weights")
    return path


@pytest.fixture
def count_reads(monkeypatch):
    reads = []
    digest = hashlib.file_digest

    def counting(file, name):
        reads.append(file.name)
        return digest(file, name)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return reads


@pytest.fixture
def later(monkeypatch):
    now = time.time_ns
    monkeypatch.setattr(module.time, "time_ns", lambda: now() + 10**10)


def test_a_file_is_read_once_until_it_is_touched(old_file, count_reads, later):
    expected = hashlib.sha256(b"weights").hexdigest()
    assert [checksum(old_file), checksum(old_file)] == [expected] * 2
    assert len(count_reads) == 1
    moved = old_file.rename(old_file.with_name("moved"))
    os.utime(moved, ns=(0, 0))
    moved.write_text("weightz")
    assert checksum(moved) == hashlib.sha256(b"weightz").hexdigest()
    assert len(count_reads) == 2


def test_what_was_written_just_now_is_read_again(old_file, count_reads):
    checksum(old_file)
    checksum(old_file)
    assert len(count_reads) == 2


def test_a_missing_file_is_an_error_though_it_was_read_before(old_file, later):
    checksum(old_file)
    old_file.unlink()
    with pytest.raises(FileNotFoundError):
        checksum(old_file)
