from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from trainables.data import DATASETS, DataError, cache_dataset, create_dataset

FILES = {
    "camvid": ("train/train_01.png", "trainannot/train_01.png"),
    "cityscapes": (
        "leftImg8bit/train/city1/city1_000001_000019_leftImg8bit.png",
        "gtFine/train/city1/city1_000001_000019_gtFine_labelIds.png",
    ),
    "folder": ("images/3.jpg", "masks/3.png"),
}
FILE_BASED = list(FILES)


@pytest.fixture(params=FILE_BASED)
def broken(request, open_dataset, tmp_path):
    """Name of a data set, its image and mask to break, and how to read it whole."""
    name = request.param
    open_dataset(name)
    root = tmp_path / name
    if name == "folder":
        (root / "train.txt").write_text("1\n2\n3\n4\n")
    image, mask = (root / path for path in FILES[name])
    return name, image, mask, lambda: create_dataset(name, root, "train").check()


def save_labels(path, size, label):
    Image.fromarray(np.full(size, label, dtype=np.uint8)).save(path)


def test_image_without_its_mask(broken):
    _, image, mask, read = broken
    mask.unlink()
    with pytest.raises(DataError, match="has no mask") as error:
        read()
    assert str(image) in str(error.value)
    assert str(mask) in str(error.value)


def test_missing_folder(broken):
    _, image, _, read = broken
    folder = image.parents[1] if image.parent.name == "city1" else image.parent
    shutil.rmtree(folder)
    with pytest.raises(DataError, match="folder is missing") as error:
        read()
    assert str(folder) in str(error.value)


def test_sizes_that_differ(broken):
    _, image, mask, read = broken
    save_labels(mask, (5, 7), 1)
    with pytest.raises(DataError, match="5 x 7") as error:
        read()
    assert str(image) in str(error.value)
    assert str(mask) in str(error.value)


def test_label_outside_the_classes(broken):
    name, image, mask, read = broken
    with Image.open(image) as picture:
        size = (picture.height, picture.width)
    save_labels(mask, size, 77)
    allowed = {"camvid": "0 to 10 and 11", "cityscapes": "7, 8, 11 to 13", "folder": "0 to 2 and"}
    with pytest.raises(DataError, match=r"label 77 \(\d+ pixels\)") as error:
        read()
    assert str(mask) in str(error.value)
    assert allowed[name] in str(error.value)


@pytest.mark.parametrize("which", ["image", "mask"])
def test_truncated_file(broken, which):
    _, image, mask, read = broken
    path = image if which == "image" else mask
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="cannot be read as an image") as error:
        read()
    assert str(path) in str(error.value)


def test_file_that_is_no_image(broken):
    _, image, _, read = broken
    image.write_text("not an image")
    with pytest.raises(DataError, match="cannot be read as an image"):
        read()


def test_mask_in_colours(broken):
    _, image, mask, read = broken
    with Image.open(image) as picture:
        picture.convert("RGB").save(mask)
    with pytest.raises(DataError, match="mode 'RGB'"):
        read()


def test_several_bad_files_are_reported_together(open_dataset, tmp_path):
    open_dataset("camvid")
    for index in (0, 3):
        save_labels(tmp_path / "camvid" / "trainannot" / f"train_0{index}.png", (12, 16), 99)
    with pytest.raises(DataError, match="2 of 5 samples") as error:
        open_dataset("camvid").check()
    assert "train_00.png" in str(error.value)
    assert "train_03.png" in str(error.value)


def test_caching_checks_every_file_and_leaves_nothing(open_dataset, tmp_path):
    open_dataset("camvid")
    save_labels(tmp_path / "camvid" / "trainannot" / "train_04.png", (12, 16), 99)
    with pytest.raises(DataError, match=r"train_04\.png"):
        cache_dataset(open_dataset("camvid"), tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").iterdir() if path.suffix != ".lock"]


@pytest.mark.parametrize("name", FILE_BASED)
def test_root_that_is_missing(name, tmp_path, monkeypatch):
    monkeypatch.setenv("SEGFRONT_CAMVID", "")
    for root in (None, tmp_path / "nowhere"):
        with pytest.raises(DataError, match="--data-root") as error:
            create_dataset(name, root)
        if name == "camvid":
            assert "SEGFRONT_CAMVID" in str(error.value)
            assert "--download" in str(error.value)


def test_camvid_list_with_a_wrong_line(open_dataset, tmp_path):
    open_dataset("camvid")
    (tmp_path / "camvid" / "train.txt").write_text("one two three\n")
    with pytest.raises(DataError, match=r"train\.txt: line 1"):
        open_dataset("camvid")


@pytest.mark.parametrize("text", ["", "a\n\nb\n", "a\na\n"])
def test_wrong_classes_file(open_dataset, tmp_path, text):
    open_dataset("folder")
    (tmp_path / "folder" / "classes.txt").write_text(text)
    with pytest.raises(DataError, match=r"classes\.txt"):
        open_dataset("folder")


def test_unknown_names_and_options_say_what_is_allowed():
    with pytest.raises(ValueError, match=r"synthetic, .*camvid, cityscapes, folder; got 'kitti'"):
        create_dataset("kitti")
    with pytest.raises(ValueError, match="colour"):
        create_dataset("synthetic", colour="red")


@pytest.mark.parametrize("name", ["synthetic", "camvid", "cityscapes"])
def test_unknown_split_says_what_is_allowed(name, tmp_path):
    with pytest.raises(ValueError, match=r"train, val, test.*got 'all'"):
        DATASETS[name](tmp_path, "all")


@pytest.mark.parametrize(
    "options", [{"size": (0, 64)}, {"size": (8, 8)}, {"num_samples": 0}, {"seed": -1}]
)
def test_synthetic_options_out_of_range(options):
    with pytest.raises(ValueError, match="must be"):
        create_dataset("synthetic", **options)
