from __future__ import annotations

import json
import os

import numpy as np
import pytest

from trainables.artifacts.store import ArtifactStore
from trainables.context import StageContext
from trainables.data import DataError, cache_dataset, file_records
from trainables.data_source import DataConfig
from trainables.stages.computation import Computation


@pytest.fixture
def forget(monkeypatch):
    """As a new process: nothing is known of any file."""

    def do_forget():
        for name in ("_records", "_ranges"):
            monkeypatch.setattr(file_records, name, {})
        monkeypatch.setattr(file_records, "_loaded_books", set())

    do_forget()
    return do_forget


@pytest.fixture
def settled(monkeypatch):
    """Files count as settled at once, so that what is known of them is kept."""
    monkeypatch.setattr(file_records, "_SETTLED_AFTER_NS", -1)


def relabel(tree, *, keep_inode):
    """Swap the labels of a mask; size, times and, if asked for, inode stay as they were."""
    path = tree.root / "masks" / "img0.bmp"
    status = path.stat()
    content = path.read_bytes()
    header = len(content) - 12 * 16
    swapped = content[:header] + bytes(1 - label for label in content[header:])
    if keep_inode:
        with path.open("r+b") as file:
            file.write(swapped)
    else:
        other = path.with_name("other")
        other.write_bytes(swapped)
        other.rename(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert path.stat().st_mtime_ns == status.st_mtime_ns
    assert (path.stat().st_ino == status.st_ino) == keep_inode


@pytest.mark.parametrize("keep_inode", [True, False])
@pytest.mark.usefixtures("settled")
def test_relabelled_masks_of_equal_size_and_date_are_noticed(tree, keep_inode, tmp_path):
    tree.write(mask="masks/{}.bmp")
    config = DataConfig(name="folder", root=tree.root)
    before = config.open_cached("train", tmp_path / "cache")
    assert config.open("train") is config.open("train")
    relabel(tree, keep_inode=keep_inode)
    after = config.open_cached("train", tmp_path / "cache")
    assert after.fingerprint != before.fingerprint
    assert np.array_equal(after[0].target, 1 - before[0].target)
    relabel(tree, keep_inode=keep_inode)
    assert config.open_cached("train", tmp_path / "cache").fingerprint == before.fingerprint


def test_the_same_content_elsewhere_has_the_same_fingerprint(tree, tmp_path):
    tree.write()
    before = tree.open().fingerprint
    tree.root = tree.root.rename(tmp_path / "moved")
    for path in (tree.root / "masks").iterdir():
        path.touch()
    assert tree.open().fingerprint == before


@pytest.mark.usefixtures("settled")
def test_an_unchanged_file_is_read_once(tree, monkeypatch):
    tree.write()
    read = []
    original = file_records.read_file
    monkeypatch.setattr(file_records, "read_file", lambda path: read.append(path) or original(path))
    fingerprint = tree.open().fingerprint
    assert len(read) == 4
    assert tree.open().fingerprint == fingerprint
    assert len(read) == 4


def test_a_file_written_just_now_is_not_trusted_to_stay(tree, monkeypatch):
    tree.write()
    read = []
    original = file_records.read_file
    monkeypatch.setattr(file_records, "read_file", lambda path: read.append(path) or original(path))
    for expected in (4, 8):
        assert tree.open().fingerprint
        assert len(read) == expected


@pytest.mark.usefixtures("settled")
def test_later_processes_find_what_took_long(tree, forget, monkeypatch):
    tree.write()
    for index in range(4):
        tree.save(f"images/img{index}.png", np.arange(192, dtype=np.uint16).reshape(12, 16) * 99)
    monkeypatch.setattr(file_records, "_WORTH_KEEPING_S", -1)
    fingerprint = tree.open().fingerprint
    forget()
    monkeypatch.setattr(file_records, "read_file", None)
    monkeypatch.setattr(file_records, "decode_pixels", None)
    assert tree.open().fingerprint == fingerprint


@pytest.mark.parametrize(
    "damage", ["", "{", '{"format_version": 1}', '{"format_version": 0}', "[]"]
)
@pytest.mark.usefixtures("settled")
def test_damaged_records_are_as_none(tree, forget, monkeypatch, damage):
    tree.write()
    monkeypatch.setattr(file_records, "_WORTH_KEEPING_S", -1)
    fingerprint = tree.open().fingerprint
    (book,) = (tree.root.parent / "user_cache" / "segfront" / "file_records").iterdir()
    assert json.loads(book.read_text())["records"]
    book.write_text(damage)
    forget()
    assert tree.open().fingerprint == fingerprint


def test_small_data_leave_nothing_in_the_user_cache(tree, forget):
    tree.write()
    assert tree.open().fingerprint
    assert not (tree.root.parent / "user_cache").exists()


def test_a_file_that_changes_before_it_is_decoded_is_refused(tree, tmp_path):
    tree.write(mask="masks/{}.bmp")
    dataset = tree.open()
    assert dataset.fingerprint
    relabel(tree, keep_inode=True)
    with pytest.raises(ValueError, match=r"img0\.bmp: changed since the data set was opened"):
        cache_dataset(dataset, tmp_path / "cache")


@pytest.mark.usefixtures("settled")
def test_the_range_of_deep_images_is_measured_again_when_another_split_changes(tree):
    tree.write()
    deep = np.arange(192, dtype=np.uint16).reshape(12, 16)
    for index in range(4):
        tree.save(f"images/img{index}.png", deep * 99)
    config = DataConfig(name="folder", root=tree.root)
    before = config.open("train")
    assert before.value_range == (0, 191 * 99)
    assert config.open("train") is before
    tree.save("images/img3.png", deep * 200)
    assert config.open("train").value_range == (0, 191 * 200)


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("change", ["image", "list", "classes", "new list", "removed"])
def test_a_process_looks_again_when_files_lists_or_folders_change(tree, change):
    tree.write(20, lists=change in ("list", "removed"))
    config = DataConfig(name="folder", root=tree.root)
    before = config.open("train")
    assert config.open("train") is before
    if change == "image":
        for index in range(100, 120):
            for kind in ("images", "masks"):
                tree.save(f"{kind}/img{index}.png", np.zeros((12, 16), np.uint8))
    elif change == "classes":
        (tree.root / "classes.txt").write_text("sky\nroad\n")
    elif change == "removed":
        (tree.root / "masks" / "img0.png").unlink()
        with pytest.raises(ValueError, match="has no mask"):
            config.open("train")
        return
    else:
        tree.list("train", ["img3"])
    assert config.open("train").fingerprint != before.fingerprint
    assert config.open("train") is config.open("train")


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("name", ["camvid", "cityscapes"])
def test_unchanged_layouts_are_not_opened_again(open_dataset, tmp_path, monkeypatch, name):
    open_dataset(name)
    config = DataConfig(name=name, root=tmp_path / name)
    before = config.open("train")
    monkeypatch.setattr("trainables.data_source.create_dataset", None)
    assert config.open("train") is before


class Relabelling(Computation):
    """Work during which the user draws a mask anew."""

    name = "relabelling"

    def __init__(self, tree):
        self.parents = {}
        self.tree = tree

    def content(self):
        return {"train": DataConfig(name="folder", root=self.tree.root).open("train").fingerprint}

    def compute(self, folder, parents, context):
        relabel(self.tree, keep_inode=True)
        return {"seconds": 0}


def test_a_stage_whose_data_change_meanwhile_leaves_no_artefact(tree, tmp_path):
    tree.write(mask="masks/{}.bmp")
    store = ArtifactStore(tmp_path / "store")
    stage = Relabelling(tree)
    with pytest.raises(DataError, match="stage relabelling changed while it ran"):
        stage.obtain(store, StageContext(cache_dir=tmp_path))
    assert store.find("relabelling", stage.key) is None
