from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from analysis.pictures import read_pictures
from analysis.report import write_report
from analysis.results import ResultsError

from .test_report import parse

BAD = "<img src=x onerror=alert(1)>"
LABEL = np.array([[0, 1], [1, 255]], dtype=np.uint8)
RIGHT_BUT_ONE = np.array([[0, 1], [0, 1]], dtype=np.uint8)


def save(path, classes):
    image = Image.fromarray(classes)
    image.putpalette([10, 20, 30, 40, 50, 60] + [0] * 762)
    image.save(path)


@pytest.fixture
def run(make):
    """A run with two images of four pixels and the pictures of three networks."""
    folder = make.run()
    pictures = folder / "pictures"
    images = []
    for place in range(2):
        (pictures / str(place)).mkdir(parents=True)
        Image.new("RGB", (2, 2)).save(pictures / f"{place}/image.jpg")
        save(pictures / f"{place}/label.png", LABEL)
        keys = ("teacher", "dense", "trial-0")
        for key in keys:
            save(pictures / f"{place}/{key}.png", RIGHT_BUT_ONE)
        images.append(
            {
                "name": f"{BAD}{place}",
                "reasons": ["typical"],
                "shown_size": [2, 2],
                "image": f"{place}/image.jpg",
                "label": f"{place}/label.png",
                "predictions": {key: f"{place}/{key}.png" for key in keys},
                "miou": dict.fromkeys(keys, 0.5),
                "wrong": dict.fromkeys(keys, 1 / 3),
            }
        )
    networks = [
        {
            "key": "teacher",
            "name": "teacher",
            "role": "teacher",
            "trial": None,
            "miou": 0.7,
            "iou": {"sky": 0.7},
        },
        {
            "key": "dense",
            "name": "dense",
            "role": "student",
            "trial": None,
            "miou": 0.6,
            "iou": {"sky": 0.6},
        },
        {"key": "trial-0", "name": "trial-0", "role": "front", "trial": 0, "miou": None, "iou": {}},
    ]
    index = {
        "version": 1,
        "split": "val",
        "num_images": 101,
        "num_evaluated": 64,
        "max_side": 640,
        "max_bytes": 20_000_000,
        "classes": [{"name": f"{BAD}sky", "color": "#0a141e"}, {"name": "car", "color": "#28323c"}],
        "networks": networks,
        "images": images,
        "notes": [f"{BAD}note"],
    }
    write(folder, index)
    return folder, index


def write(folder, index):
    (folder / "pictures" / "index.json").write_text(json.dumps(index))


def test_a_run_without_pictures_has_none_and_says_how_to_get_them(make):
    folder = make.run()
    assert read_pictures(folder / "pictures") is None
    assert "python -m trainables.predictions" in write_report([folder]).read_text()


def test_pictures_lie_in_the_report_and_load_late(run):
    folder, _ = run
    page = parse(write_report([folder]))
    images = [a for tag, a in page.tags if tag == "img" and "hidden" not in a]
    addresses = [a.get("src") or a.get("data-src") for a in images]
    # thumbnails, image, label, three predictions and their errors, twice
    assert len(images) == 2 * (1 + 2 + 3 + 3)
    assert all((folder / "report" / address).is_file() for address in addresses)
    assert all(a["loading"] == "lazy" for a in images)
    assert all("alt" in a for a in images)


def test_errors_alone_are_left_in_sight(run):
    folder, _ = run
    write_report([folder])
    cover = Image.open(folder / "report/pictures/run/0/trial-0.errors.png").convert("RGBA")
    alpha = np.asarray(cover)[..., 3]
    assert (alpha == [[225, 225], [0, 255]]).all()
    assert tuple(np.asarray(cover)[1, 1, :3]) == (128, 128, 128)


def test_everything_in_the_pictures_is_escaped(run):
    folder, _ = run
    page = parse(write_report([folder]))
    assert not any("onerror" in attributes for _, attributes in page.tags)
    text = "".join(page.text)
    for part in ("sky", "0", "note"):
        assert f"{BAD}{part}" in text


def test_pictures_of_an_earlier_report_do_not_outlive_it(run):
    folder, index = run
    write_report([folder])
    write(folder, index | {"images": index["images"][:1]})
    write_report([folder])
    assert not (folder / "report/pictures/run/1").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "version must be 1, got 2"),
        ({"networks": [{}]}, "an entry is missing or wrong"),
        ({"classes": [{"name": "sky", "color": "red;x:url(y)"}]}, "colour must be #rrggbb"),
        ({"images": 3}, "an entry is missing or wrong"),
    ],
)
def test_a_broken_index_is_named(run, change, message):
    folder, index = run
    write(folder, index | change)
    with pytest.raises(ResultsError, match=rf"index\.json: .*{message}"):
        read_pictures(folder / "pictures")


@pytest.mark.parametrize(
    ("name", "message"), [("../metadata.json", "outside"), ("0/gone.png", "missing")]
)
def test_a_file_elsewhere_or_nowhere_is_named(run, name, message):
    folder, index = run
    index["images"][0]["label"] = name
    write(folder, index)
    with pytest.raises(ResultsError, match=message):
        read_pictures(folder / "pictures")


def test_a_picture_of_another_size_is_named(run):
    folder, _ = run
    save(folder / "pictures/0/dense.png", np.zeros((3, 2), dtype=np.uint8))
    with pytest.raises(ResultsError, match=r"dense\.png: its size differs from the label"):
        write_report([folder])
