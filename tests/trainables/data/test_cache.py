from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
from collections import namedtuple

import pytest
import torch

from trainables.data import DATASETS, CachedDataset, DataError, Synthetic, cache_dataset
from trainables.data.folder import FolderDataset
from trainables.data.image_files import ImagePair


class Counted(Synthetic):
    """Leaves one mark per decoded sample in a folder that all processes see."""

    def __init__(self, marks):
        super().__init__(size=(32, 32), num_samples=5)
        self.marks = marks

    def __getitem__(self, index):
        with (self.marks / f"{index}").open("a") as file:
            file.write("x")
        return super().__getitem__(index)


def fill_cache(marks, cache_dir, start):
    start.wait()
    cached = cache_dataset(Counted(marks), cache_dir)
    assert len(cached) == 5


@pytest.mark.parametrize("name", list(DATASETS))
def test_cached_samples_are_the_decoded_ones(open_dataset, tmp_path, name):
    dataset = open_dataset(name)
    cached = cache_dataset(dataset, tmp_path / "cache")
    assert len(cached) == len(dataset)
    assert cached.classes == dataset.classes
    assert cached.split == dataset.split
    assert cached.fingerprint == dataset.fingerprint
    for index in range(len(dataset)):
        assert torch.equal(cached[index].image, dataset[index].image)
        assert torch.equal(cached[index].target, dataset[index].target)
        assert cached.sample_name(index) == dataset.sample_name(index)
        assert tuple(cached.sample_size(index)) == dataset.sample_size(index)
    labels = torch.cat([dataset[index].target.flatten() for index in range(len(dataset))])
    counts = torch.bincount(labels.long(), minlength=256)[: dataset.num_classes]
    assert list(cached.label_counts) == counts.tolist()
    assert cache_dataset(cached, tmp_path / "elsewhere") is cached


def test_images_of_differing_sizes(open_dataset, tmp_path):
    small, large = open_dataset("folder"), open_dataset("camvid")
    pairs = [*small.pairs[:2], *(ImagePair(p.name, p.image_path, p.mask_path) for p in large.pairs)]
    mixed = FolderDataset.__new__(FolderDataset)
    ids = {**dict.fromkeys(range(12), 0), 255: 255}
    super(FolderDataset, mixed).__init__(pairs, ["all"], split="train", train_ids=ids)
    cached = cache_dataset(mixed, tmp_path / "cache")
    for index in range(len(mixed)):
        assert torch.equal(cached[index].image, mixed[index].image)
        assert torch.equal(cached[index].target, mixed[index].target)


def test_two_processes_decode_once(tmp_path):
    marks = tmp_path / "marks"
    marks.mkdir()
    context = multiprocessing.get_context("fork")
    start = context.Barrier(2)
    processes = [
        context.Process(target=fill_cache, args=(marks, tmp_path / "cache", start))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert sorted(p.read_text() for p in marks.iterdir()) == ["x"] * 5


@pytest.mark.parametrize("damage", ["truncated", "no index", "other format", "broken index"])
def test_damaged_cache_is_made_anew(open_dataset, tmp_path, damage, caplog):
    dataset = open_dataset("synthetic")
    folder = cache_dataset(dataset, tmp_path).folder
    pixels, index = folder / "samples.uint8", folder / "index.json"
    if damage == "truncated":
        pixels.write_bytes(pixels.read_bytes()[:-100])
    elif damage == "no index":
        index.unlink()
    elif damage == "other format":
        index.write_text(json.dumps({**json.loads(index.read_text()), "format_version": 0}))
    else:
        index.write_text(index.read_text()[:40])
    with pytest.raises(DataError, match=folder.name):
        CachedDataset(folder)
    again = cache_dataset(dataset, tmp_path)
    assert "rebuilding it" in caplog.text
    assert torch.equal(again[5].image, dataset[5].image)


def test_sample_that_is_not_what_was_written_is_named_and_the_cache_made_anew(
    open_dataset, tmp_path, caplog
):
    dataset = open_dataset("synthetic")
    cached = cache_dataset(dataset, tmp_path)
    expected = [cached[index].image for index in (0, 5)]
    with (cached.folder / "samples.uint8").open("r+b") as file:
        file.seek(-1, os.SEEK_END)  # a label of the last sample
        last = file.read(1)[0]
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last ^ 1]))
    assert torch.equal(cached[0].image, expected[0])
    fresh = cache_dataset(dataset, tmp_path)
    with pytest.raises(DataError, match=f"sample {dataset.sample_name(5)} is not what was written"):
        fresh[5]
    again = cache_dataset(dataset, tmp_path)
    assert "rebuilding it" in caplog.text
    assert torch.equal(again[5].image, expected[1])


def test_leftovers_of_a_killed_process_are_removed(open_dataset, tmp_path):
    dataset = open_dataset("synthetic")
    folder = cache_dataset(dataset, tmp_path).folder
    left = tmp_path / f"{folder.name}.abc.tmp"
    folder.rename(left)
    cache_dataset(dataset, tmp_path)
    assert not left.exists()


def test_handle_pickles_small_and_opens_again(open_dataset, tmp_path):
    cached = cache_dataset(open_dataset("synthetic"), tmp_path)
    expected = cached[2]
    content = pickle.dumps(cached)
    assert len(content) < 4096
    assert torch.equal(pickle.loads(content)[2].image, expected.image)


def test_a_sample_may_be_written_to(open_dataset, tmp_path):
    cached = cache_dataset(open_dataset("synthetic"), tmp_path)
    cached[0].image.zero_()
    assert cached[0].image.any()


def test_full_disk_is_refused_before_decoding(open_dataset, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 900, 100))
    with pytest.raises(OSError, match="only 100 are free"):
        cache_dataset(open_dataset("synthetic"), tmp_path)


def test_disk_bytes_are_reported_before_they_are_taken(open_dataset, tmp_path, caplog):
    with caplog.at_level("INFO"):
        cache_dataset(open_dataset("synthetic"), tmp_path)
    assert "MiB of disk" in caplog.records[0].message


@pytest.mark.parametrize("is_listed_twice", [True, False])
def test_warnings_are_those_of_the_lists_as_they_are_now(tree, tmp_path, is_listed_twice):
    tree.write()
    lines = {True: ["img0", "img1", "img0"], False: ["img0", "img1"]}
    tree.list("train", lines[not is_listed_twice])
    before = cache_dataset(tree.open(), tmp_path / "cache")
    tree.list("train", lines[is_listed_twice])
    after = cache_dataset(tree.open(), tmp_path / "cache")
    assert after.folder == before.folder
    assert ["repeats images" in text for text in after.warnings] == [True] * is_listed_twice


def test_whether_there_is_one_class_is_that_of_the_file_as_it_is_now(tree, tmp_path):
    tree.write(classes="crack\n")
    before = cache_dataset(tree.open(), tmp_path / "cache")
    (tree.root / "classes.txt").write_text("background\ncrack\n")
    after = cache_dataset(tree.open(), tmp_path / "cache")
    assert after.folder == before.folder
    assert (before.has_one_class, after.has_one_class) == (True, False)
