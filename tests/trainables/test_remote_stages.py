"""Stores of two nodes that share nothing but storage."""

import hashlib
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from trainables.artifacts.remote_folder import RemoteFolder, StorageError
from trainables.artifacts.remote_stages import RemoteStages
from trainables.artifacts.store import open_store
from trainables.chain import make_chain
from trainables.pipeline import build_stages

PARTIAL = "sparse-k.partial"


class Node:
    """A node's store and what it sees in storage."""

    def __init__(self, root, uri):
        self.root = root
        self.remote = RemoteFolder(uri) / "stages"
        self.store = open_store(root, self.remote.uri)


@pytest.fixture
def node(bucket, tmp_path):
    return lambda name: Node(tmp_path / name, bucket)


def write(folder, text="weights"):
    (folder / "checkpoint.safetensors").write_text(text)
    return {"miou": 0.5}


def never(folder):
    pytest.fail("computed")


def interrupt(node, text, share=None):
    """Train up to a saved state on a node that is gone then."""

    def compute(folder):
        if share is not None:
            (folder / f"share-{share:g}.json").write_text('{"miou": 0.25}')
        state = folder / "state.safetensors"
        state.write_text(text)
        node.store.keep_state(state)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        node.store.obtain("sparse", "k", compute)


def go_on(node):
    """What a node finds of a stage that was begun, and its end."""
    seen = {}

    def compute(folder):
        seen.update({path.name: path.read_text() for path in folder.iterdir()})
        (folder / "state.safetensors").unlink(missing_ok=True)
        return write(folder)

    assert not node.store.obtain("sparse", "k", compute).reused
    return seen


def test_artefact_of_one_node_is_found_by_the_other(node):
    first, second = node("a"), node("b")
    assert second.store.find("sparse", "k") is None
    made = first.store.obtain("sparse", "k", write)
    found = second.store.obtain("sparse", "k", never)
    assert (made.reused, found.reused) == (False, True)
    assert found.result == {"miou": 0.5}
    assert found.checkpoint.read_text() == "weights"
    assert found.folder == second.root / "sparse-k"
    assert {path.name for path in second.root.iterdir()} == {".locks", "sparse-k"}


def test_half_uploaded_artefact_is_invisible_until_it_is_whole(node, monkeypatch):
    first, second = node("a"), node("b")
    put = RemoteFolder.put

    def refuse_result(self, local, name=""):
        if local.name == "result.json":
            raise StorageError("away")
        put(self, local, name)

    with monkeypatch.context() as patch:
        patch.setattr(RemoteFolder, "put", refuse_result)
        with pytest.raises(StorageError):
            first.store.obtain("sparse", "k", write)
    assert first.remote.list().keys() == {"sparse-k/checkpoint.safetensors"}
    assert second.store.find("sparse", "k") is None
    # The worker is started again on its node, and brings there what it has.
    again = open_store(first.root, first.remote.uri)
    again.obtain("sparse", "k", never)
    assert second.store.obtain("sparse", "k", never).checkpoint.read_text() == "weights"


@pytest.mark.parametrize("name", ["checkpoint.safetensors", "result.json"])
@pytest.mark.parametrize("damage", ["bytes", "missing"])
def test_damaged_artefact_is_set_aside_and_computed_again(node, caplog, name, damage):
    first, second, third = node("a"), node("b"), node("c")
    first.store.obtain("sparse", "k", write)
    if damage == "bytes":
        first.remote.write(f"sparse-k/{name}", b"{")
    else:
        first.remote.delete(f"sparse-k/{name}")
    again = second.store.obtain("sparse", "k", lambda folder: write(folder, "other"))
    assert not again.reused
    if (name, damage) != ("result.json", "missing"):  # which is an artefact that never was
        assert "is damaged" in caplog.text
        assert len(list(second.root.glob("*.damaged-*"))) == 1
    assert third.store.obtain("sparse", "k", never).checkpoint.read_text() == "other"


def test_damaged_copy_is_fetched_again(node, caplog):
    first, second = node("a"), node("b")
    first.store.obtain("sparse", "k", write)
    second.store.find("sparse", "k").checkpoint.write_text("weightz")
    assert second.store.find("sparse", "k").checkpoint.read_text() == "weights"
    assert "is damaged" in caplog.text


def test_another_node_goes_on_where_the_last_state_was_saved(node):
    first, second = node("a"), node("b")
    interrupt(first, "step 3")
    interrupt(first, "step 6")
    (name,) = first.remote.list()
    checksum = hashlib.sha256(b"step 6").hexdigest()
    assert name == f"{PARTIAL}/{checksum}.state.safetensors"
    assert go_on(second) == {"state.safetensors": "step 6"}
    # Nothing is left there but the artefact.
    assert {name.partition("/")[0] for name in second.remote.list()} == {"sparse-k"}


def test_the_newer_state_of_two_nodes_is_taken(node):
    first, second = node("a"), node("b")
    interrupt(first, "step 3")
    (state,) = first.root.glob(f"{PARTIAL}/state.safetensors")
    os.utime(state, (state.stat().st_atime, state.stat().st_mtime - 100))
    interrupt(second, "step 6")
    assert go_on(first) == {"state.safetensors": "step 6"}


def test_state_that_could_not_be_uploaded_is_newer_here(node):
    first = node("a")
    interrupt(first, "step 3")
    (state,) = first.root.glob(f"{PARTIAL}/state.safetensors")
    state.write_text("step 6")
    os.utime(state, (state.stat().st_atime, state.stat().st_mtime + 100))
    assert go_on(first) == {"state.safetensors": "step 6"}


def test_damaged_state_is_left_out(node, caplog):
    first, second = node("a"), node("b")
    interrupt(first, "step 3")
    (name,) = first.remote.list()
    first.remote.write(name, b"step 4")
    assert go_on(second) == {}
    assert "is damaged in storage" in caplog.text


def test_state_that_cannot_be_loaded_is_forgotten_everywhere(node):
    first = node("a")
    interrupt(first, "step 3")
    first.store.discard_partial("sparse", "k")
    assert first.remote.list() == {}
    assert go_on(node("b")) == {}


def test_results_of_rungs_go_with_the_states(node):
    first, second = node("a"), node("b")
    result = first.store.advance("sparse", "k", 0.25, lambda folder: {"miou": 0.25})
    assert second.store.advance("sparse", "k", 0.25, never) == result
    # One whose upload was missed goes before a state that is beyond it.
    interrupt(second, "step 6", share=0.5)
    third = node("c")
    assert third.store.advance("sparse", "k", 0.5, never) == {"miou": 0.25}
    assert go_on(third).keys() == {"state.safetensors", "share-0.25.json", "share-0.5.json"}
    assert node("d").store.advance("sparse", "k", 0.25, never) == result


def test_state_stays_here_while_the_storage_refuses(node, caplog, monkeypatch):
    first = node("a")

    def refuse(self, name, data):
        raise StorageError("away")

    monkeypatch.setattr(RemoteFolder, "write", refuse)
    interrupt(first, "step 3")
    assert f"the state of {PARTIAL} stays on this node: away" in caplog.text


def test_record_is_fetched_without_the_network(node, tmp_path):
    first = node("a")
    first.store.advance("sparse", "k", 0.25, lambda folder: {"miou": 0.25})
    first.store.obtain("sparse", "k", write)
    RemoteStages(first.remote).fetch_record("sparse-k", tmp_path / "record")
    names = {path.name for path in (tmp_path / "record").iterdir()}
    assert names == {"result.json", "share-0.25.json"}
    RemoteStages(first.remote).remove("sparse-k")
    assert first.remote.list() == {}
    with pytest.raises(FileNotFoundError):
        RemoteStages(first.remote).fetch_record("sparse-k", tmp_path / "none")


def test_training_goes_on_elsewhere_as_if_nothing_had_happened(node, tiny_config, context):
    (stage,) = build_stages(tiny_config, make_chain(["dense"]))
    through = stage.obtain(node("through").store, replace(context))
    first, second = node("a"), node("b")
    saved = []

    def lose_node(path):
        first.store.keep_state(path)
        saved.append(path)
        if len(saved) == 2:
            raise KeyboardInterrupt

    # Without its own upload, "through" would be found.
    RemoteStages(node("x").remote).remove(through.folder.name)
    lost = replace(context, checkpoint_seconds=1e-9, keep_state=lose_node)
    with pytest.raises(KeyboardInterrupt):
        stage.obtain(first.store, lost)
    states = []
    watching = replace(context, checkpoint_seconds=1e-9, keep_state=states.append)
    again = stage.obtain(second.store, watching)
    assert len(states) == 1  # of 4 steps two were done, and the last one saves no state
    there, here = load_file(through.checkpoint), load_file(again.checkpoint)
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in there)
