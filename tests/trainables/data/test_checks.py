from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.data import DataError, cache_dataset, check_splits
from trainables.data_source import DataConfig


@pytest.fixture
def check(tree, tmp_path):
    def check_tree(**options):
        config = DataConfig(name="folder", root=tree.root, **options)
        return check_splits(*config.open_all_cached(("train", "val"), tmp_path / "cache"))

    return check_tree


def test_good_data_are_counted_without_a_word(tree, check):
    tree.write()
    report = check()
    assert report.warnings == ()
    half = 2 * 12 * 8
    assert report.class_counts == {
        split: {"background": half, "object": half} for split in ("train", "val")
    }
    assert report.num_samples == {"train": 2, "val": 2}
    assert report.num_ignored == {"train": 0, "val": 0}
    assert report.resolution == (12, 16)


@pytest.mark.parametrize(
    ("classes", "labels", "remedy"),
    [
        ("background\nobject\n", (0, 255), "'background 0 0 0', 'object 255 255 255'"),
        ("background\nobject\n", (0, 0), "give masks or lists in which they do"),
        ("background\nobject\n", (255, 255), "If 255 is a class"),
        ("a\nb\nc\n", (1, 1), "only class 'b' occurs"),
        ("crack\n", (0, 255), "'crack 255 255 255' if 255 is 'crack', or 'crack 0 0 0' if 0 is"),
        ("crack\n", (0, 0), "only class 'background' occurs"),
    ],
)
def test_data_whose_miou_means_nothing_are_refused(tree, check, classes, labels, remedy):
    tree.write(classes=classes, labels=labels)
    with pytest.raises(DataError, match=r"would be meaningless: in split 'train'.*'val'") as error:
        check()
    assert remedy in str(error.value)


def test_the_remedies_work(tree, check):
    tree.write(labels=(0, 255))
    expected = {"background": 192, "object": 192}
    classes = ("background 0 0 0", "object 255 255 255")
    assert check(classes=classes).class_counts["val"] == expected
    assert check(classes=("object 255 255 255",)).class_counts["val"] == expected
    assert check(classes=("object 0 0 0",)).class_counts["val"] == expected


def test_one_class_of_0_and_1_is_reported_with_its_background(tree, check):
    tree.write(classes="crack\n")
    assert check().class_counts["train"] == {"background": 192, "crack": 192}


def test_only_validation_without_a_second_class_is_refused_too(tree, check):
    tree.write()
    for index in (2, 3):
        tree.save(f"masks/img{index}.png", np.ones((12, 16), np.uint8))
    with pytest.raises(DataError, match="in split 'val' only class 'object' occurs"):
        check()


def test_a_class_that_never_occurs_is_a_warning_with_counts(tree, check):
    tree.write(classes="a\nb\nc\n")
    tree.save("masks/img3.png", np.full((12, 16), 2, np.uint8))
    report = check()
    (warning,) = report.warnings
    assert "'c' never occurs in split 'train'" in warning
    assert "a 192 (50 %), b 192 (50 %), c 0 (0 %)" in warning


def test_the_effect_of_a_class_that_never_occurs_in_val_is_said(tree, check):
    tree.write(classes="a\nb\nc\n")
    tree.save("masks/img0.png", np.full((12, 16), 2, np.uint8))
    (warning,) = check().warnings
    assert "split 'val' (counts in mIoU, as 0, only if a network predicts it)" in warning


def test_much_that_is_ignored_is_a_warning(tree, check):
    tree.write()
    for index in (0, 2):
        tree.save(f"masks/img{index}.png", np.full((12, 16), 255, np.uint8))
    assert any("50 % of the pixels of 'train' are ignored" in text for text in check().warnings)


def test_one_image_in_both_splits_is_a_warning(tree, check):
    tree.write()
    tree.list("val", ["img1", "img2", "img3"])
    (warning,) = check().warnings
    assert "1 image of 'val' is also in 'train': 'img1'" in warning


def test_one_picture_in_two_files_is_found_by_content(tree, check):
    tree.write()
    with Image.open(tree.root / "images" / "img0.png") as image:
        image.save(tree.root / "images" / "again.bmp")
    (tree.root / "masks" / "again.png").write_bytes((tree.root / "masks" / "img0.png").read_bytes())
    tree.list("val", ["img2", "again"])
    assert any("'img0' as 'again'" in text for text in check().warnings)
    tree.list("train", ["img0", "img1", "again"])
    assert any("1 of 3 images of 'train' are duplicates" in text for text in check().warnings)


def test_one_name_for_two_pictures_is_a_warning(tree, check):
    tree.write(lists=False)
    for split, index in (("train", 0), ("train", 1), ("val", 2), ("val", 3)):
        for kind in ("images", "masks"):
            source = tree.root / kind / f"img{index}.png"
            target = tree.root / kind / split / f"{index % 2}.png"
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
    assert "2 names of 'train' name another image in 'val'" in check().warnings[0]


def test_mixed_sizes_are_a_warning_and_the_common_one_is_measured(tree, check):
    tree.write(5, val=3)
    for kind in ("images", "masks"):
        tree.save(f"{kind}/img2.png", np.eye(20, 30, dtype=np.uint8))
    report = check()
    assert report.resolution == (12, 16)
    assert report.sizes["val"] == {"20 x 30": 1, "12 x 16": 2}
    assert "images have 2 sizes, from 12 x 16 to 20 x 30" in report.warnings[0]
    assert "--pipeline.data.size 12 16" in report.warnings[0]
    assert check(size=(12, 16)).warnings == ()


def test_few_unreadable_files_are_left_out_with_a_warning(tree, check, tmp_path):
    tree.write(8, val=2)
    path = tree.root / "images" / "img1.png"
    path.write_bytes(path.read_bytes()[:-30])
    (tree.root / "masks" / "img6.png").write_bytes(b"")
    report = check()
    assert report.num_samples == {"train": 5, "val": 1}
    assert "1 of 6 samples of 'train' cannot be read and are left out" in report.warnings[0]
    assert "img1.png" in report.warnings[0]
    assert "img6.png" in report.warnings[1]
    dataset = tree.open()
    cached = cache_dataset(dataset, tmp_path / "cache")
    kept = [0, 2, 3, 4, 5]
    for place, index in enumerate(kept):
        assert torch.equal(cached[place].image, dataset[index].image)
        assert cached.sample_name(place) == dataset.sample_name(index)
    assert cache_dataset(tree.open(), tmp_path / "cache").fingerprint == dataset.fingerprint
    assert tree.open("val").common_size == (12, 16)


def test_many_unreadable_files_are_refused_and_named(tree, check):
    tree.write(8, val=2)
    for index in (1, 3):
        (tree.root / "images" / f"img{index}.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"img[13]\.png"):
        check()


def test_problems_of_both_splits_are_named_and_what_to_do_once(tree, check):
    tree.write(6, val=3, labels=(0, 7))
    with pytest.raises(DataError, match="outside the 2 classes") as error:
        check()
    text = str(error.value)
    assert all(f"img{index}.png" in text for index in range(6))
    assert text.count("allowed are 0, 1 and 255 (ignored)") == 2


@pytest.mark.parametrize("name", ["synthetic", "camvid", "cityscapes", "folder"])
def test_every_data_set_says_whether_it_has_a_test_split(open_dataset, tmp_path, name):
    open_dataset(name)
    config = DataConfig(name=name, root=tmp_path / name)
    assert config.has_split("train")
    assert config.has_split("test") == (name in ("synthetic", "camvid"))
    if name == "folder":
        (tmp_path / name / "test.txt").write_text("3\n")
        (tmp_path / name / "val.txt").write_text("4\n")
        assert len(config.open("test")) == 1
        assert config.has_split("test")
