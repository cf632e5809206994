import errno
import json
import subprocess
import sys

import pytest

from trainables.artifacts.checksum import checksum
from trainables.artifacts.store import ArtifactStore, content_key


def write(folder, text="weights"):
    (folder / "checkpoint.safetensors").write_text(text)
    return {"miou": 0.5}


def test_a_stage_is_computed_once_and_found_again(tmp_path):
    store = ArtifactStore(tmp_path)
    first = store.obtain("sparse", "k", write)
    again = ArtifactStore(tmp_path).obtain("sparse", "k", lambda folder: pytest.fail("computed"))
    assert (first.reused, again.reused) == (False, True)
    assert again.result == {"miou": 0.5}
    assert again.checkpoint.read_text() == "weights"
    assert store.find("sparse", "other") is None


def test_an_interrupted_stage_is_invisible_and_goes_on_where_it_was(tmp_path):
    store = ArtifactStore(tmp_path)

    def interrupted(folder):
        (folder / "state.safetensors").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.obtain("sparse", "k", interrupted)
    assert store.find("sparse", "k") is None

    def resumed(folder):
        assert (folder / "state.safetensors").read_text() == "half"
        (folder / "state.safetensors").unlink()
        return write(folder)

    assert not store.obtain("sparse", "k", resumed).reused


def test_an_attempt_killed_while_publishing_leaves_nothing_behind(tmp_path):
    store = ArtifactStore(tmp_path)

    def killed(folder):
        (folder / "result.json").write_text("{}")
        (folder / ".result.json.0123abcd.tmp").write_text("{")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.obtain("sparse", "k", killed)
    store.obtain("sparse", "k", write)
    found = store.find("sparse", "k")
    assert found is not None
    assert {path.name for path in found.folder.iterdir()} == {
        "checkpoint.safetensors",
        "result.json",
    }


@pytest.mark.parametrize("damage", ["bytes", "missing", "record"])
def test_a_damaged_artefact_is_reported_and_computed_again(tmp_path, caplog, damage):
    store = ArtifactStore(tmp_path)
    artifact = store.obtain("sparse", "k", write)
    if damage == "bytes":
        artifact.checkpoint.write_text("weightz")
    elif damage == "missing":
        artifact.checkpoint.unlink()
    else:
        (artifact.folder / "result.json").write_text("{")
    again = store.obtain("sparse", "k", write)
    assert not again.reused
    assert again.checkpoint.read_text() == "weights"
    assert "is damaged" in caplog.text


def test_an_artefact_that_another_process_repairs_meanwhile_is_not_set_aside(tmp_path, monkeypatch):
    store, other = ArtifactStore(tmp_path), ArtifactStore(tmp_path)
    store.obtain("sparse", "k", write).checkpoint.write_text("weightz")
    repaired = []

    def read_slowly(path):
        found = checksum(path)
        if not repaired:
            repaired.append(path)
            other.obtain("sparse", "k", write)
        return found

    monkeypatch.setattr("trainables.artifacts.store.checksum", read_slowly)
    found = store.find("sparse", "k")
    assert found is not None
    assert found.checkpoint.read_text() == "weights"
    assert len(list(tmp_path.glob("sparse-k.damaged-*"))) == 1


def test_an_artefact_whose_storage_is_away_for_a_while_is_not_damaged(
    tmp_path, monkeypatch, caplog
):
    store = ArtifactStore(tmp_path)
    store.obtain("sparse", "k", write)
    answers = iter((errno.EIO, errno.ESTALE))

    def answer(path):
        number = next(answers, None)
        if number is not None:
            raise OSError(number, "the server is away")
        return checksum(path)

    monkeypatch.setattr("trainables.artifacts.store.checksum", answer)
    monkeypatch.setattr("models.files.storage.time.sleep", lambda seconds: None)
    assert store.obtain("sparse", "k", write).reused
    assert "the server is away" in caplog.text


def test_an_artefact_that_this_process_may_not_read_stays(tmp_path, monkeypatch):
    store = ArtifactStore(tmp_path)
    kept = store.obtain("sparse", "k", write)

    def refuse(path):
        raise PermissionError(errno.EACCES, "not yours")

    monkeypatch.setattr("trainables.artifacts.store.checksum", refuse)
    with pytest.raises(PermissionError, match="not yours"):
        store.find("sparse", "k")
    assert kept.folder.is_dir()


def test_an_attempt_with_a_damaged_state_is_set_aside(tmp_path):
    def stop(folder):
        (folder / "state").write_text("damaged")
        raise ValueError("state")

    store = ArtifactStore(tmp_path)
    with pytest.raises(ValueError, match="state"):
        store.obtain("sparse", "k", stop)
    store.discard_partial("sparse", "k")
    (aside,) = tmp_path.glob("sparse-k.partial*/state")
    assert ".damaged-" in aside.parent.name
    assert store.obtain("sparse", "k", write).folder.is_dir()


OBTAIN = """
import sys, time
from pathlib import Path
from trainables.artifacts.store import ArtifactStore

root, log = map(Path, sys.argv[1:])

def compute(folder):
    with log.open("a") as file:
        file.write("computed\\n")
    time.sleep(0.3)
    (folder / "checkpoint.safetensors").write_text("weights")
    return {"miou": 0.5}

print("ready", flush=True)
input()
ArtifactStore(root).obtain("dense", "k", compute)
"""


def test_two_processes_never_compute_the_same_stage(tmp_path):
    log = tmp_path / "log"
    command = [sys.executable, "-c", OBTAIN, str(tmp_path / "stages"), str(log)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    assert [process.stdout.readline() for process in processes] == ["ready\n", "ready\n"]
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=120)
    assert [process.returncode for process in processes] == [0, 0]
    assert log.read_text() == "computed\n"


def test_keys_depend_on_content_alone():
    assert content_key({"a": 1, "b": (2, 3)}) == content_key({"b": [2, 3], "a": 1})
    assert content_key({"a": 1}) != content_key({"a": 2})
    assert len(content_key("x")) == 20
    assert json.dumps(content_key(["x"]))
