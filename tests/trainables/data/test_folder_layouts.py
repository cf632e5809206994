from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from trainables.data import DataError
from trainables.data_source import DataConfig


def names_of(dataset):
    return [dataset.sample_name(index) for index in range(len(dataset))]


@pytest.mark.parametrize(
    "line",
    [
        "img0",
        "img0.png",
        "images/img0.png",
        "./images/img0.png",
        "images\\img0.png",
        "/elsewhere/data/images/img0.png",
        "  img0.png \r",
        "images/img0.png masks/img0.png",
        "/elsewhere/images/img0.png /elsewhere/masks/img0.png",
        "img0.png,img0.png",
        "images/img0.png\tmasks/img0.png",
    ],
)
def test_a_line_of_a_list_may_be_a_name_a_path_or_a_pair(tree, line):
    tree.write()
    tree.list("train", [line, "", "img1"])
    dataset = tree.open()
    assert names_of(dataset) == ["img0", "img1"]
    assert dataset.pairs[0].mask_path.name == "img0.png"


def test_a_pair_may_join_any_mask_and_names_may_hold_blanks(tree):
    tree.write(image="images/a photo {}.png", mask="masks/{} of a photo.png")
    pair = "images/a photo img0.png masks/img1 of a photo.png"
    tree.list("train", [pair])
    assert tree.open().pairs[0].mask_path.name == "img1 of a photo.png"
    tree.list("train", ["a photo img0"])
    dataset = tree.open(image_suffix="a photo {}", mask_suffix=" of a photo")
    assert names_of(dataset) == ["a photo img0"]


def test_line_without_image_names_list_line_and_what_is_there(tree):
    tree.write()
    tree.list("train", ["img0", "imgg1"])
    with pytest.raises(DataError, match=r"train\.txt: names 'imgg1' in line 2.*'img1\.png'"):
        tree.open()


def test_an_image_listed_twice_counts_once_with_a_warning(tree):
    tree.write()
    tree.list("train", ["img0", "img1", "img0.png", "img0"])
    dataset = tree.open()
    assert names_of(dataset) == ["img0", "img1"]
    assert "train.txt repeats images in 2 lines, such as 'img0'" in dataset.warnings[0]


@pytest.mark.parametrize(
    ("image", "mask", "options"),
    [
        ("{}", "{}_mask", {"mask_suffix": "_mask"}),
        ("{}_image", "{}_annotation", {"image_suffix": "_image", "mask_suffix": "_annotation"}),
        ("rgb_{}", "label_{}", {"image_suffix": "rgb_{}", "mask_suffix": "label_{}"}),
        ("{}.v1", "{}.v1.gt", {"mask_suffix": ".gt"}),
    ],
)
def test_suffixes_and_patterns_join_masks_to_images(tree, image, mask, options):
    tree.write(image=f"images/{image}.png", mask=f"masks/{mask}.png", lists=False)
    tree.list("train", [image.format("img0")])
    assert tree.open(**options).pairs[0].mask_path.stem == mask.format("img0")
    with pytest.raises(DataError, match="has no mask") as error:
        tree.open()
    for name, value in options.items():
        assert f"--pipeline.data.{name.replace('_', '-')} {value}" in str(error.value)


def test_lists_may_hold_what_image_and_mask_share(tree):
    tree.write(image="images/{}_image.png", mask="masks/{}_mask.png")
    dataset = tree.open(image_suffix="_image", mask_suffix="_mask")
    assert names_of(dataset) == ["img0_image", "img1_image"]


@pytest.mark.parametrize("count", [2, 3, 10])
def test_few_samples_without_lists_still_make_two_splits(tree, count):
    tree.write(count, lists=False)
    train, val = names_of(tree.open()), names_of(tree.open("val"))
    assert train
    assert val
    assert sorted(train + val) == [f"img{index}" for index in range(count)]


def test_images_and_masks_may_share_a_folder(tree):
    tree.write(10, image="all/{}.png", mask="all/{}_mask.png", lists=False)
    config = DataConfig(
        name="folder", root=tree.root, images="all", masks="all", mask_suffix="_mask"
    )
    both = names_of(config.open("train")) + names_of(config.open("val"))
    assert sorted(both) == [f"img{index}" for index in range(10)]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_are_equal_in_both_unicode_forms(tree, form):
    other = "NFD" if form == "NFC" else "NFC"
    image = f"images/{unicodedata.normalize(form, 'Straße ü é')}{{}}.png"
    tree.write(image=image, mask=f"masks/{unicodedata.normalize(other, 'Straße ü é')}{{}}.png")
    tree.list("train", [unicodedata.normalize(other, "Straße ü éimg0")])
    assert len(tree.open()) == 1


def test_hidden_files_are_no_samples(tree):
    tree.write(lists=False, samples=10)
    for name in ("images/._img0.png", "images/.hidden/img0.png", "images/__MACOSX/img1.png"):
        tree.save(name, np.zeros((3, 3), dtype=np.uint8))
    (tree.root / "masks" / "._img0.png").write_bytes(b"\0\5\26\7")
    (tree.root / "images" / "Thumbs.db").write_bytes(b"x")
    assert sorted(names_of(tree.open()) + names_of(tree.open("val"))) == [
        f"img{index}" for index in range(10)
    ]


@pytest.mark.parametrize("stated", [True, False])
def test_splits_may_be_folders(tree, stated):
    for split, count in (("train", 3), ("val", 2), ("test", 1)):
        for index in range(count):
            for kind in ("images", "masks"):
                tree.save(f"{kind}/{split}/{index}.png", np.full((4, 4), index % 2, np.uint8))
    (tree.root / "classes.txt").write_text("a\nb")
    options = {"images": "images/{split}", "masks": "masks/{split}"} if stated else {}
    config = DataConfig(name="folder", root=tree.root, **options)
    assert [len(config.open(split)) for split in ("train", "val", "test")] == [3, 2, 1]
    assert config.has_split("test")
    assert not config.has_split("other")


def test_names_of_folders_and_lists_are_flags(tree):
    tree.write(lists=False, image="JPEGImages/{}.png", mask="SegmentationClass/{}.png")
    (tree.root / "ImageSets").mkdir()
    for split, stem in (("train", "img0"), ("val", "img1")):
        (tree.root / "ImageSets" / f"{split}.lst").write_text(stem)
    options = {"images": "JPEGImages", "masks": "SegmentationClass", "lists": "ImageSets/{}.lst"}
    assert names_of(tree.open("val", **options)) == ["img1"]
    with pytest.raises(
        DataError, match=r"contains ImageSets/, JPEGImages/.*--pipeline.data.images"
    ):
        tree.open()
    with pytest.raises(DataError, match=r"must contain \{\}"):
        tree.open(**options | {"lists": "train.txt"})


def test_images_in_folders_find_masks_in_folders_or_in_one(tree):
    for site in ("a", "b"):
        tree.save(f"images/{site}/{site}1.png", np.zeros((4, 4), np.uint8))
        tree.save(f"masks/{site}1.png", np.zeros((4, 4), np.uint8))
    (tree.root / "classes.txt").write_text("a\nb")
    tree.list("train", ["a/a1", "b1"])
    assert names_of(tree.open()) == ["a/a1", "b/b1"]


def test_a_mask_is_not_shared_by_two_images(tree):
    for site in ("a", "b"):
        tree.save(f"images/{site}/1.png", np.zeros((4, 4), np.uint8))
    tree.save("masks/1.png", np.zeros((4, 4), np.uint8))
    (tree.root / "classes.txt").write_text("a\nb")
    tree.list("train", ["a/1", "b/1"])
    with pytest.raises(DataError, match="is the mask of both"):
        tree.open()


def test_classes_are_a_file_anywhere_or_given_as_they_are(tree, tmp_path):
    tree.write(classes=None)
    with pytest.raises(DataError, match=r"classes\.txt.*--pipeline.data.classes FILE"):
        tree.open()
    (tmp_path / "names").write_text("x\ny\n")
    (tree.root / "inner.csv").write_text("p\nq\n")
    assert tree.open(classes=(str(tmp_path / "names"),)).classes == ("x", "y")
    assert tree.open(classes=("inner.csv",)).classes == ("p", "q")
    assert tree.open(classes=("sky", "road")).classes == ("sky", "road")
    assert tree.open(classes=("crack",)).classes == ("background", "crack")
    with pytest.raises(DataError, match=r"nowhere\.txt: file of classes is missing"):
        tree.open(classes=("nowhere.txt",))


def test_settled_data_hold_the_classes_themselves(tree, tmp_path):
    tree.write(classes=None)
    (tmp_path / "names.txt").write_text("x 0 0 0\ny 1 1 1\n")
    config = DataConfig(name="folder", root=tree.root, classes=(str(tmp_path / "names.txt"),))
    settled = config.settle()
    (tmp_path / "names.txt").unlink()
    assert settled.classes == ("x 0 0 0", "y 1 1 1")
    assert settled.open("train").classes == ("x", "y")
    assert settled.settle() == settled


def test_options_of_folders_are_refused_elsewhere():
    with pytest.raises(DataError, match=r"--pipeline.data.mask-suffix needs .* folder;"):
        DataConfig(name="camvid", mask_suffix="_mask").open("train")


def test_images_of_a_test_list_are_neither_trained_on_nor_validated(tree):
    tree.write(10, lists=False)
    tree.list("test", ["img3", "img7"])
    train, val = names_of(tree.open()), names_of(tree.open("val"))
    assert sorted(train + val) == [f"img{index}" for index in (0, 1, 2, 4, 5, 6, 8, 9)]
    assert names_of(tree.open("test")) == ["img3", "img7"]


def test_lines_of_a_test_list_that_name_no_image_hold_none_out(tree):
    tree.write(10, lists=False)
    everything = sorted(names_of(tree.open()) + names_of(tree.open("val")))
    tree.list("test", ["The test of May failed.", "", "elsewhere/0001.png"])
    assert sorted(names_of(tree.open()) + names_of(tree.open("val"))) == everything
    tree.list("test", ["elsewhere/0001.png", "img3", "images/img7.png masks/missing.png"])
    held_out = {"img3", "img7"}
    assert {*names_of(tree.open()), *names_of(tree.open("val"))} == {*everything} - held_out


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [("training", "validation", "testing"), ("train", "valid", "test"), ("Train", "Val", "TEST")],
)
def test_splits_are_known_by_their_usual_names(tree, train, val, test):
    for split, names in ((train, "ab"), (val, "c"), (test, "d")):
        for name in names:
            for kind in ("images", "masks"):
                tree.save(f"{kind}/{split}/{name}.png", np.zeros((4, 4), np.uint8))
    (tree.root / "classes.txt").write_text("a\nb")
    for options in ({}, {"images": "images/{split}", "masks": "masks/{split}"}):
        splits = [names_of(tree.open(split, **options)) for split in ("train", "val", "test")]
        assert splits == [["a", "b"], ["c"], ["d"]]


def test_lists_are_known_by_their_usual_names(tree):
    tree.write(lists=False)
    tree.list("training", ["img0", "img2"])
    tree.list("Valid", ["img1"])
    assert names_of(tree.open()) == ["img0", "img2"]
    assert names_of(tree.open("val")) == ["img1"]


def test_folders_of_splits_come_before_texts_that_are_called_like_lists(tree):
    for split in ("train", "val"):
        tree.write(1, image=f"images/{split}/{{}}.png", mask=f"masks/{split}/{{}}.png", lists=False)
    tree.list("training", ["epoch 1: loss 2.3"])
    for options in ({}, {"images": "images/{split}", "masks": "masks/{split}"}):
        assert tree.open(**options).pairs[0].image_path == tree.root / "images/train/img0.png"


@pytest.mark.parametrize(
    "folder", ["test", "Train", "val2017", "test_1", "Training", "site/testing"]
)
def test_folders_that_look_like_splits_are_not_mixed(tree, folder):
    tree.write(4, image="images/{}.png", mask="masks/{}.png", lists=False)
    for kind in ("images", "masks"):
        tree.save(f"{kind}/{folder}/other.png", np.zeros((12, 16), np.uint8))
    name = folder.rpartition("/")[2]
    with pytest.raises(DataError, match=rf"look like splits \({name}\).*train\.txt"):
        tree.open()
    tree.list("train", ["img0"])
    assert names_of(tree.open()) == ["img0"]


@pytest.mark.parametrize(
    "folder", ["valley", "trains", "contest", "test_field_3", "train_station", "test-flight-2024"]
)
def test_folders_may_begin_like_a_split(tree, folder):
    tree.write(4, image=f"images/{folder}/{{}}.png", mask=f"masks/{folder}/{{}}.png", lists=False)
    assert len(tree.open()) + len(tree.open("val")) == 4


@pytest.mark.parametrize(
    ("line", "name", "mask"),
    [
        ("images/img0.png masks/img1.png", "img0", "img1.png"),
        ("images/img0.png masks/fixed/img0.png", "img0", "fixed/img0.png"),
        ("img0.png,fixed/img1.png", "img0", "fixed/img1.png"),
        ("/elsewhere/images/img0.png;/elsewhere/masks/other/img0.png", "img0", "other/img0.png"),
        ("/elsewhere/my data/images/img0.png", "img0", "img0.png"),
    ],
)
def test_the_mask_that_a_line_names_is_used(tree, line, name, mask):
    tree.write()
    for folder in ("fixed", "other"):
        for index in (0, 1):
            tree.save(f"masks/{folder}/img{index}.png", np.zeros((12, 16), np.uint8))
    tree.list("train", [line])
    (pair,) = tree.open().pairs
    assert (pair.name, pair.mask_path) == (name, tree.root / "masks" / mask)


@pytest.mark.parametrize("line", ["images/img9.png masks/img1.png", "img0.png masks/img9.png"])
def test_a_pair_of_which_one_is_missing_is_not_read_as_a_name(tree, line):
    tree.write()
    tree.list("train", [line])
    with pytest.raises(DataError, match=r"in line 1, but .* no such image .* or .* no such mask"):
        tree.open()


def test_a_path_is_not_read_as_that_of_another_folder(tree):
    tree.write(image="images/city2/{}.png", mask="masks/city2/{}.png")
    tree.list("train", ["/elsewhere/images/city2/img0.png", "img1"])
    assert names_of(tree.open()) == ["city2/img0", "city2/img1"]
    for line in ("city1/img0.png", "/elsewhere/images/city1/img0.png"):
        tree.list("train", [line])
        with pytest.raises(DataError, match=f"names '{line}' in line 1"):
            tree.open()


def test_the_end_of_a_path_tells_files_of_one_name_apart(tree):
    tree.write(image="images/city1/{}.png", mask="masks/city1/{}.png")
    tree.write(image="images/city2/{}.png", mask="masks/city2/{}.png")
    tree.list("train", ["/elsewhere/images/city2/img0.png"])
    assert names_of(tree.open()) == ["city2/img0"]
