from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.data import CAMVID_CLASSES, DATASETS, DataError, create_dataset
from trainables.data.cityscapes import CITYSCAPES_CLASSES, LABEL_IDS

NAMES = list(DATASETS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("split", ["train", "val"])
def test_every_dataset_keeps_the_contract(open_dataset, expected_classes, name, split):
    dataset = open_dataset(name, split)
    assert len(dataset) > 0
    assert dataset.num_classes == len(dataset.classes) == expected_classes[name]
    assert dataset.ignore_index == 255
    names = [dataset.sample_name(index) for index in range(len(dataset))]
    assert len(set(names)) == len(names)
    for index in range(len(dataset)):
        image, target = dataset[index]
        assert image.dtype == target.dtype == torch.uint8
        assert image.shape == (3, *dataset.sample_size(index))
        assert target.shape == dataset.sample_size(index)
        labels = set(target.unique().tolist()) - {255}
        assert labels <= set(range(dataset.num_classes))
    dataset.check()


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_is_the_same_at_every_call(open_dataset, name):
    first, second = open_dataset(name), open_dataset(name)
    for index in (1, 0):
        for a, b in zip(first[index], second[index], strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("name", NAMES)
def test_index_beyond_the_end_is_refused(open_dataset, name):
    dataset = open_dataset(name)
    with pytest.raises(IndexError):
        dataset[len(dataset)]


@pytest.mark.parametrize("name", NAMES)
def test_fingerprint_follows_content_and_options(open_dataset, name):
    prints = [
        open_dataset(name).fingerprint,
        open_dataset(name, "val").fingerprint,
        open_dataset(name, size=(40, 48)).fingerprint,
    ]
    assert len(set(prints)) == 3
    assert open_dataset(name).fingerprint == prints[0]


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "folder"])
def test_size_scales_image_and_labels(open_dataset, name):
    dataset = open_dataset(name, size=(8, 8))
    image, target = dataset[0]
    assert image.shape == (3, 8, 8)
    assert set(target.unique().tolist()) <= {*range(dataset.num_classes), 255}


def test_camvid_void_becomes_255(open_dataset):
    dataset = open_dataset("camvid")
    assert dataset.classes == CAMVID_CLASSES
    expected = torch.tensor([*range(11), 255, 0, 1, 2, 3], dtype=torch.uint8)
    assert torch.equal(dataset[0].target[0], expected)


def test_camvid_reads_the_folder_where_the_list_is_absent(open_dataset, tmp_path):
    listed = open_dataset("camvid")
    (tmp_path / "camvid" / "train.txt").unlink()
    assert [p.name for p in open_dataset("camvid").pairs] == [p.name for p in listed.pairs]


def test_camvid_images_may_be_jpeg_files_beside_png_masks(open_dataset, tmp_path):
    names = [p.name for p in open_dataset("camvid").pairs]
    (tmp_path / "camvid" / "train.txt").unlink()
    for path in (tmp_path / "camvid" / "train").iterdir():
        Image.open(path).convert("RGB").save(path.with_suffix(".jpg"))
        path.unlink()
    found = open_dataset("camvid")
    assert [p.name for p in found.pairs] == names
    assert {p.image_path.suffix for p in found.pairs} == {".jpg"}
    assert {p.mask_path.suffix for p in found.pairs} == {".png"}


def test_camvid_root_from_the_environment(open_dataset, tmp_path, monkeypatch):
    open_dataset("camvid")
    monkeypatch.setenv("SEGFRONT_CAMVID", str(tmp_path / "camvid"))
    assert len(create_dataset("camvid")) == 5


def test_cityscapes_maps_label_ids_as_the_official_table(open_dataset):
    row = open_dataset("cityscapes")[0].target.flatten()[:22].tolist()
    assert row == [255, *range(19), 18, 255]
    assert len(LABEL_IDS) == len(CITYSCAPES_CLASSES) == 19


def test_folder_splits_by_hash_without_lists(open_dataset):
    train, val = open_dataset("folder"), open_dataset("folder", "val")
    names = {p.name for p in train.pairs} | {p.name for p in val.pairs}
    assert len(train) + len(val) == len(names) == 20
    assert 1 <= len(val) <= 8


def test_folder_obeys_its_lists(open_dataset, tmp_path):
    open_dataset("folder")
    (tmp_path / "folder" / "val.txt").write_text("3\n1\n")
    assert [p.name for p in open_dataset("folder", "val").pairs] == ["3", "1"]
    with pytest.raises(DataError, match=r"train\.txt"):
        open_dataset("folder", "train")


def test_palette_masks_are_read_as_indices(open_dataset, tmp_path):
    open_dataset("folder")
    path = tmp_path / "folder" / "masks" / "3.png"
    labels = np.asarray(Image.open(path))
    image = Image.fromarray(labels, mode=None).convert("P")
    image.putdata(labels.flatten().tolist())
    image.save(path)
    (tmp_path / "folder" / "val.txt").write_text("3\n")
    assert np.array_equal(open_dataset("folder", "val")[0].target.numpy(), labels)


def test_an_image_listed_twice_in_camvid_counts_once_with_a_warning(open_dataset, tmp_path):
    names = [pair.name for pair in open_dataset("camvid").pairs]
    path = tmp_path / "camvid" / "train.txt"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[1]]))
    dataset = open_dataset("camvid")
    assert [pair.name for pair in dataset.pairs] == names
    (warning,) = dataset.warnings
    assert "train.txt repeats images in 1 line, such as 'train_01'" in warning
