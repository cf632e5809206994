from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from trainables.data import DataError

LABELS = np.array([[0, 1, 2, 255], [2, 1, 0, 0]], dtype=np.uint8)
COLOURS = {0: (0, 0, 0), 1: (0, 255, 0), 2: (255, 0, 0), 255: (224, 224, 192)}
COLOURED = np.array([[COLOURS[int(v)] for v in row] for row in LABELS], dtype=np.uint8)


def deep_png(pixels):
    """A PNG of 16 bits per channel, which Pillow cannot write in colour."""

    def chunk(kind, content):
        checksum = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checksum

    height, width, channels = pixels.shape
    colour_type = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def alpha(pixels, value=255):
    return np.dstack([pixels, np.full(LABELS.shape, value, dtype=np.uint8)])


def palette(colours, *, transparent=False):
    image = Image.fromarray(LABELS).convert("L")
    image = Image.frombytes("P", image.size, LABELS.tobytes())
    flat = [0] * 768
    for label, colour in colours.items():
        flat[3 * label : 3 * label + 3] = colour
    image.putpalette(flat)
    if transparent:
        image.info["transparency"] = bytes([0] + [255] * 255)
    return image


EQUAL = np.repeat(LABELS[..., None], 3, axis=2)
SAME_LABELS = {
    "grey": Image.fromarray(LABELS),
    "equal rgb": Image.fromarray(EQUAL),
    "equal rgba": Image.fromarray(alpha(EQUAL)),
    "grey with alpha": Image.fromarray(np.dstack([LABELS, LABELS]), mode=None),
    "palette": palette(COLOURS),
    "transparent palette": palette(COLOURS, transparent=True),
    "16 bits": Image.fromarray(LABELS.astype(np.uint16)),
    "32 bits": Image.fromarray(LABELS.astype(np.int32)),
    "float": Image.fromarray(LABELS.astype(np.float32)),
}


def open_mask(tree, image, classes, name="m.png"):
    tree.save("images/m.png", np.zeros(LABELS.shape, np.uint8))
    path = tree.root / "masks" / name
    path.parent.mkdir(exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        options = {"transparency": image.info["transparency"]} if image.info else {}
        image.save(path, **options)
    (tree.root / "classes.txt").write_text(classes)
    tree.list("train", ["m"])
    return tree.open()


@pytest.mark.parametrize("kind", list(SAME_LABELS))
def test_labels_are_read_whatever_holds_them(tree, kind):
    name = "m.tif" if kind in ("float", "32 bits") else "m.png"
    target = open_mask(tree, SAME_LABELS[kind], "a\nb\nc\n", name)[0].target
    assert np.array_equal(target.numpy(), LABELS)


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_labels_in_16_bits_per_channel_keep_their_low_bits(tree, channels):
    pixels = np.repeat(LABELS[..., None].astype(np.uint16), channels, axis=2)
    target = open_mask(tree, deep_png(pixels), "a\nb\nc\n")[0].target
    assert np.array_equal(target.numpy(), LABELS)


def test_one_bit_masks_hold_0_and_1(tree):
    image = Image.fromarray(LABELS == 1)
    assert open_mask(tree, image, "a\nb\n")[0].target.max() == 1
    assert open_mask(tree, image, "crack\n")[0].target.max() == 1
    assert open_mask(tree, image, "a 0 0 0\nb 255 255 255\n")[0].target.max() == 1


@pytest.mark.parametrize("kind", ["rgb", "rgba", "palette", "transparent palette"])
def test_colours_stand_for_the_classes_that_declare_them(tree, kind):
    image = {
        "rgb": Image.fromarray(COLOURED),
        "rgba": Image.fromarray(alpha(COLOURED)),
        "palette": palette(COLOURS),
        "transparent palette": palette(COLOURS, transparent=True),
    }[kind]
    classes = "b 0 255 0\na 0 0 0\nvoid 224 224 192\nc 255 0 0\n"
    dataset = open_mask(tree, image, classes)
    table = {0: 1, 1: 0, 2: 3, 255: 2}
    expected = [[table[int(v)] for v in row] for row in LABELS]
    assert dataset[0].target.tolist() == expected
    assert dataset.colours == ((0, 255, 0), (0, 0, 0), (224, 224, 192), (255, 0, 0))
    ignoring = tree.open(ignore=("void",))
    table = {0: 1, 1: 0, 2: 2, 255: 255}
    assert ignoring.classes == ("b", "a", "c")
    assert ignoring[0].target.tolist() == [[table[int(v)] for v in row] for row in LABELS]


def test_one_channel_holds_labels_though_classes_bear_colours_for_pictures(tree):
    classes = "a 0 0 0\nb 0 255 0\nc 255 0 0\n"
    assert np.array_equal(open_mask(tree, Image.fromarray(LABELS), classes)[0].target, LABELS)


@pytest.mark.parametrize(("white", "black"), [(1, 0), (0, 1)])
def test_greys_that_classes_declare_are_values_of_one_channel(tree, white, black):
    values = np.where(LABELS == 0, 0, 255).astype(np.uint8)
    lines = ["", ""]
    lines[white], lines[black] = "w 255 255 255", "k 0 0 0"
    target = open_mask(tree, Image.fromarray(values), "\n".join(lines))[0].target
    assert np.array_equal(target.numpy(), np.where(LABELS == 0, black, white))
    one = open_mask(tree, Image.fromarray(values), lines[1])[0].target
    assert np.array_equal(one.numpy(), target.numpy())


def test_colours_without_a_class_are_named_with_the_remedy(tree):
    with pytest.raises(DataError, match=r"whose channels differ.*224 224 192 .1 pixels") as error:
        open_mask(tree, Image.fromarray(COLOURED), "a\nb\nc\n")[0]
    assert "write the colour of each class after its name" in str(error.value)
    with pytest.raises(DataError, match=r"colour 224 224 192 .1 pixels. of no class") as error:
        open_mask(tree, Image.fromarray(COLOURED), "a 0 0 0\nb 0 255 0\nc 255 0 0\n")[0]
    assert "--pipeline.data.ignore" in str(error.value)
    with pytest.raises(DataError, match="leave out all colours there to read the palette's"):
        open_mask(tree, palette(COLOURS), "a 0 0 0\nb 0 255 0\nc 255 0 0\n")[0]


@pytest.mark.parametrize("name", ["m.jpg", "m.webp"])
def test_lossy_masks_are_refused_even_if_their_values_are_labels(tree, name):
    with pytest.raises(DataError, match=r"is a (JPEG|WEBP) mask; .* save it as PNG"):
        open_mask(tree, Image.new("L", (4, 2)), "a\nb\n", name)[0]


@pytest.mark.parametrize("compression", ["jpeg", "tiff_lzw"])
def test_masks_in_tiff_are_refused_if_they_are_compressed_as_jpeg(tree, compression):
    encoded = io.BytesIO()
    Image.fromarray(LABELS).save(encoded, "TIFF", compression=compression)
    dataset = open_mask(tree, encoded.getvalue(), "a\nb\nc\n", "m.tif")
    if compression == "jpeg":
        with pytest.raises(DataError, match=r"is a JPEG-compressed TIFF mask; .* save it as PNG"):
            dataset[0]
    else:
        assert np.array_equal(dataset[0].target.numpy(), LABELS)


def test_lossless_webp_holds_labels(tree):
    encoded = io.BytesIO()
    Image.fromarray(EQUAL).save(encoded, "WEBP", lossless=True)
    target = open_mask(tree, encoded.getvalue(), "a\nb\nc\n", "m.webp")[0].target
    assert np.array_equal(target.numpy(), LABELS)


def test_fractions_and_foreign_modes_are_refused(tree):
    fractions = Image.fromarray(LABELS.astype(np.float32) + 0.5)
    with pytest.raises(DataError, match="labels are whole numbers"):
        open_mask(tree, fractions, "a\nb\n", "m.tif")[0]
    (tree.root / "masks" / "m.tif").unlink()
    with pytest.raises(DataError, match="mode 'CMYK'"):
        open_mask(tree, Image.new("CMYK", (4, 2)), "a\nb\n", "m.tiff")[0]


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ([0, 1, 2], "if 0 is not a class, put a line 'void' first .* --pipeline.data.ignore void"),
        ([0, 128, 255], "if these greys are classes, write each after the name"),
    ],
)
def test_labels_beyond_the_classes_say_what_they_usually_mean(tree, values, remedy):
    image = Image.fromarray(np.resize(np.array(values, np.uint8), LABELS.shape))
    with pytest.raises(DataError, match=remedy):
        open_mask(tree, image, "a\nb\n")[0]
