from __future__ import annotations

import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from tests.trainables.data.test_mask_files import deep_png
from trainables.data import DataError, cache_dataset, file_index
from trainables.data.value_range import choose_range, to_uint8
from trainables.data_source import DataConfig

RAMP = np.linspace(40, 199, 12 * 16).reshape(12, 16)


def exif(turn):
    tags = Image.Exif()
    tags[ExifTags.Base.Orientation] = turn
    return tags


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_a_photo_is_turned_as_its_camera_noted(tree, turn, suffix):
    tree.write()
    pixels = np.repeat(RAMP.astype(np.uint8)[..., None], 3, axis=2)
    (tree.root / "images" / "img0.png").unlink()
    path = tree.save(f"images/img0.{suffix}", pixels, exif=exif(turn))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    tree.save("masks/img0.png", np.zeros(expected.shape[:2], np.uint8))
    tree.list("train", ["img0"])
    dataset = tree.open()
    assert dataset.sample_size(0) == expected.shape[:2]
    assert np.array_equal(dataset[0].image.permute(1, 2, 0).numpy(), expected)
    assert cache_dataset(dataset, tree.root / "cache").sample_size(0) == expected.shape[:2]


def test_a_mask_is_turned_likewise(tree):
    tree.write()
    labels = (RAMP > 100).astype(np.uint8)
    tree.save("masks/img0.png", labels, exif=exif(3))
    assert np.array_equal(tree.open()[0].target.numpy(), labels[::-1, ::-1])


@pytest.mark.parametrize("turn", [6, 8])
def test_a_mask_drawn_before_the_turn_keeps_its_image_unturned(tree, turn):
    tree.write()
    stored = RAMP.astype(np.uint8)
    tree.save("images/img0.png", stored, exif=exif(turn))  # the mask is 12 x 16 as stored
    dataset = tree.open()
    assert dataset.sample_size(0) == (12, 16)
    assert np.array_equal(dataset[0].image[0].numpy(), stored)
    assert "1 of 2 images of 'train' have an EXIF orientation" in dataset.warnings[0]


def write_turned(tree, turns):
    """Photos with these EXIF orientations, and masks as large as the stored pixels."""
    tree.write(len(turns), val=1)
    for index, turn in enumerate(turns):
        tree.save(f"images/img{index}.png", RAMP.astype(np.uint8), exif=exif(turn))


def test_other_masks_show_whether_one_that_fits_both_ways_was_drawn_on_stored_pixels(tree):
    write_turned(tree, (3, 1, 1))
    alone = tree.open()
    assert np.array_equal(alone[0].image[0].numpy(), RAMP.astype(np.uint8)[::-1, ::-1])
    write_turned(tree, (3, 6, 1))
    dataset = tree.open()
    assert np.array_equal(dataset[0].image[0].numpy(), RAMP.astype(np.uint8))
    (warning,) = dataset.warnings
    assert "2 of 2 images of 'train' have an EXIF orientation" in warning
    assert "(1 of them have sizes that fit both ways)" in warning
    dataset._turned["stored"] = []
    assert dataset.fingerprint != tree.open().fingerprint  # a stale cache is not found


def test_turned_images_whose_masks_fit_both_ways_are_warned_of(tree):
    write_turned(tree, (3, 1, 1))
    (warning,) = tree.open().warnings
    assert "1 of 2 images of 'train' have an EXIF orientation and are turned, such as 'img0'" in (
        warning
    )
    assert "preview" in warning
    write_turned(tree, (3, 6, 1))
    tree.save("masks/img1.png", np.zeros((16, 12), np.uint8))  # drawn on the turned image
    assert tree.open().warnings == ()


DEEP = {
    "12 bits in 16": (RAMP * 16).astype(np.uint16),
    "a narrow band of 16 bits": (28000 + RAMP).astype(np.uint16),
    "16 bits": (RAMP * 256).astype(np.uint16),
    "32 bits": (RAMP * 1000).astype(np.int32),
    "float to 1": (RAMP / 255).astype(np.float32),
    "float to 255": RAMP.astype(np.float32),
    "float below 0": (RAMP - 120).astype(np.float32),
}


@pytest.mark.parametrize("kind", list(DEEP))
def test_deep_images_keep_their_contrast(tree, kind):
    tree.write()
    for index in range(4):
        (tree.root / "images" / f"img{index}.png").unlink()
        tree.save(f"images/img{index}.tif", DEEP[kind])
    image = tree.open()[0].image.numpy()
    assert image.shape == (3, 12, 16)
    assert np.array_equal(image[0], image[2])
    assert np.ptp(image) >= 150
    assert len(np.unique(image)) > 120
    assert (np.diff(image[0].ravel().astype(int)) >= 0).all()
    assert "more than 8 bits" in tree.open().warnings[0]


def test_deep_colours_keep_their_low_bits(tree):
    tree.write()
    pixels = np.stack([RAMP * 16, RAMP * 8, RAMP * 4], axis=2).astype(np.uint16)
    for index in range(4):
        (tree.root / "images" / f"img{index}.png").write_bytes(deep_png(pixels))
    image = tree.open()[0].image.permute(1, 2, 0).numpy()
    low, high = pixels.min(), pixels.max()
    expected = np.rint((pixels.astype(float) - low) * 255 / (high - low))
    assert np.abs(image - expected).max() <= 1


def test_colours_of_16_bits_in_tiff_are_brought_to_their_range(tree):
    tree.write()
    strip = np.repeat((RAMP * 60).astype("<u2")[..., None], 3, axis=2).tobytes()
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    values = {256: 16, 257: 12, 258: (16, 16, 16), 259: 1, 262: 2, 277: 3, 278: 12}
    for tag, value in (values | {273: 0, 279: len(strip)}).items():
        tags[tag] = value
    header = struct.pack("<2sHI", b"II", 42, 8)
    for index in range(4):
        (tree.root / "images" / f"img{index}.png").unlink()
        content = header + tags.tobytes(8) + strip  # Pillow moves the strip behind the tags
        (tree.root / "images" / f"img{index}.tif").write_bytes(content)
    image = tree.open()[0].image.numpy()
    assert (image.min(), image.max()) == (0, 255)


def test_one_range_holds_for_all_images_of_all_splits(tree):
    tree.write()
    for index, scale in enumerate((10, 20, 30, 100)):
        tree.save(f"images/img{index}.png", (RAMP * scale).astype(np.uint16))
    assert tree.open().value_range == tree.open("val").value_range == (400, 19900)
    assert tree.open()[0].image.max() < tree.open("val")[1].image.max() == 255
    assert DataConfig(name="folder", root=tree.root).find_value_range() == (400, 19900)
    before = tree.open().fingerprint
    assert tree.open(image_range=(0, 65535)).fingerprint != before
    assert tree.open(image_range=(0, 65535))[0].image.max() == round(1990 * 255 / 65535)
    tree.save("images/img3.png", (RAMP * 200).astype(np.uint16))  # of the other split
    assert tree.open().fingerprint != before


def test_the_range_is_that_of_the_images_in_use(tree):
    tree.write(image="all/rgb_{}.png", mask="all/label_{}.png", lists=False)
    for index in range(4):
        tree.save(f"all/rgb_img{index}.png", (RAMP * 16).astype(np.uint16))
        tree.save(f"all/depth_img{index}.png", (RAMP * 256).astype(np.uint16))
    options = {"images": "all", "masks": "all", "image_suffix": "rgb_{}", "mask_suffix": "label_{}"}
    assert tree.open(**options).value_range == (640, 3184)
    tree.save("all/rgb_img3.png", (RAMP * 300).astype(np.uint16))  # left out of the lists
    tree.list("train", ["rgb_img0"])
    tree.list("val", ["rgb_img1", "img2"])
    before = tree.open(**options)
    assert before.value_range == tree.open("val", **options).value_range == (640, 3184)
    tree.save("all/rgb_img4.png", (RAMP * 400).astype(np.uint16))
    assert tree.open(**options).fingerprint == before.fingerprint
    tree.list("test", ["rgb_img3"])
    tree.save("all/label_img3.png", np.zeros((12, 16), np.uint8))
    assert tree.open(**options).value_range == (640, 59700)


def test_the_range_is_that_of_all_folders_of_splits(tree):
    for split, scale in (("train", 10), ("valid", 20), ("test", 100)):
        tree.save(f"images/{split}/1.png", (RAMP * scale).astype(np.uint16))
        tree.save(f"masks/{split}/1.png", np.zeros((12, 16), np.uint8))
    (tree.root / "classes.txt").write_text("a\nb")
    assert tree.open().value_range == tree.open("val").value_range == (400, 19900)


def test_the_range_is_that_of_all_splits_whose_masks_have_folders(tree):
    for split, index, scale in (("train", 0, 10), ("val", 1, 20)):
        tree.save(f"images/img{index}.png", (RAMP * scale).astype(np.uint16))
        tree.save(f"masks_{split}/img{index}_mask.png", np.zeros((12, 16), np.uint8))
        tree.list(split, [f"img{index}.png img{index}_mask.png"])
    (tree.root / "classes.txt").write_text("a\nb")
    ranges = [tree.open(split, masks="masks_{split}").value_range for split in ("train", "val")]
    assert ranges == [(400, 3980), (400, 3980)]


def test_images_of_8_bits_need_no_look_at_other_splits(tree, monkeypatch):
    walked = []
    walk = file_index._walk
    monkeypatch.setattr(
        file_index, "_walk", lambda folder: walked.append(folder.name) or walk(folder)
    )
    for split in ("train", "val"):
        tree.write(1, image=f"images/{split}/{{}}.png", mask=f"masks/{split}/{{}}.png", lists=False)
    assert tree.open().value_range is None
    assert walked == ["train", "train"]


def test_images_that_are_no_numbers_are_refused(tree):
    tree.write()
    (tree.root / "images" / "img0.png").unlink()
    tree.save("images/img0.tif", np.full((12, 16), np.nan, np.float32))
    with pytest.raises(DataError, match=r"img0\.tif: has pixels that are not finite"):
        tree.open()[0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1", "L"])
def test_other_images_of_8_bits_become_rgb(tree, mode):
    tree.write()
    (tree.root / "images" / "img0.png").unlink()
    suffix = "tif" if mode == "CMYK" else "png"
    Image.new(mode, (16, 12)).save(tree.root / "images" / f"img0.{suffix}")
    assert tree.open()[0].image.shape == (3, 12, 16)


@pytest.mark.parametrize(
    ("low", "high", "is_float", "expected"),
    [
        (0, 255, False, (0, 255)),
        (3, 128, False, (0, 255)),
        (0, 100, False, (0, 100)),
        (11200, 32000, False, (11200, 32000)),
        (0.1, 0.6, True, (0, 1)),
        (0, 0.01, True, (0, 0.01)),
        (0, 200, True, (0, 255)),
        (-1, 1, True, (-1, 1)),
        (7, 7, False, (7, 8)),
    ],
)
def test_range_of_values(low, high, is_float, expected):
    assert choose_range([(low, high)], is_float=is_float) == expected
    ends = to_uint8(np.array([[expected[0], expected[1]]]), expected)
    assert ends[..., 0].tolist() == [[0, 255]]


def test_an_image_too_large_to_decode_says_what_to_do(tree, monkeypatch):
    tree.write()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 80)
    with pytest.raises(DataError, match=r"img0\.png: cannot be read .*; cut it into tiles"):
        tree.open()[0]


def test_the_flag_of_the_range_is_named_only_where_it_is_allowed(open_dataset, tmp_path):
    open_dataset("camvid")
    for path in (tmp_path / "camvid" / "train").iterdir():
        Image.fromarray((RAMP * 16).astype(np.uint16)).save(path)
    (warning,) = open_dataset("camvid").warnings
    assert "more than 8 bits" in warning
    assert "--pipeline.data.image-range" not in warning
