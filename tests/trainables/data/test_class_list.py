from __future__ import annotations

import pytest

from trainables.data import DataError
from trainables.data.class_list import parse_classes
from trainables.data.palette import default_palette


@pytest.mark.parametrize(
    "line",
    [
        "crop 0 255 0",
        "crop\t0\t255\t0",
        "crop,0,255,0",
        "crop: 0, 255, 0",
        "crop:0,255,0::",
        "crop (0, 255, 0)",
        "crop #00ff00",
        "0 255 0 crop",
        "#00ff00 crop",
        "0,255,0,crop",
        '"crop",0,255,0',
    ],
)
def test_a_line_may_bear_its_colour(line):
    stated = parse_classes([line, "dry weed 255 0 0"], "file")
    assert stated.names == ("crop", "dry weed")
    assert stated.colours == ((0, 255, 0), (255, 0, 0))
    assert stated.train_ids == (0, 1)


@pytest.mark.parametrize("name", ["lane 2", "traffic light", "class 1 2", "Straße", "2", "a, b"])
def test_names_without_colour_stay_as_they_are(name):
    assert parse_classes([name, "other"], "file").names == (name, "other")
    assert parse_classes([name, "other"], "file").colours is None


def test_comments_headers_and_empty_lines_at_the_end_are_no_classes():
    lines = ["# label:color_rgb:parts:actions", "a:0,0,0::", "b:1,2,3::", "", ""]
    assert parse_classes(lines, "file").names == ("a", "b")
    assert parse_classes(["name,r,g,b", "a,0,0,0", "b,9,9,9"], "file").names == ("a", "b")


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "must name 1 to 255"),
        (["a", "", "b"], "none empty"),
        (["a", "a"], "class twice: a"),
        (["a 0 0 0", "b 0 0 0"], "colour twice"),
        (["a 0 0 0", "b"], "b has no colour"),
        (["a 0 0 256", "b 0 0 0"], "above 255"),
        (["background"], "names only 'background'"),
        ([f"c{i}" for i in range(256)], "must name 1 to 255"),
    ],
)
def test_what_cannot_be_meant_is_refused(lines, problem):
    with pytest.raises(DataError, match=problem) as error:
        parse_classes(lines, "my/classes.txt")
    assert "my/classes.txt" in str(error.value)


def test_ignored_classes_make_room_for_the_others():
    stated = parse_classes(["void", "a", "b"], "file", ignored=["void"])
    assert stated.names == ("a", "b")
    assert stated.train_ids == (255, 0, 1)
    coloured = parse_classes(["a 9 9 9", "b 8 8 8", "void 0 0 0"], "f", ignored=["void"])
    assert coloured.kept_colours == ((9, 9, 9), (8, 8, 8))
    with pytest.raises(DataError, match="has no class viod to ignore; it has void, a, b"):
        parse_classes(["void", "a", "b"], "file", ignored=["viod"])
    with pytest.raises(DataError, match="fewer than two"):
        parse_classes(["void", "a"], "file", ignored=["void"])


def test_one_class_is_told_from_a_background():
    assert parse_classes(["crack"], "file").names == ("background", "crack")
    white = parse_classes(["crack 255 255 255"], "file")
    assert white.colours == ((0, 0, 0), (255, 255, 255))
    assert parse_classes(["crack 0 0 0"], "file").colours == ((255, 255, 255), (0, 0, 0))


@pytest.mark.parametrize("count", [1, 22, 60, 255])
def test_default_colours_are_distinct_and_stay(count):
    palette = default_palette(count)
    assert len(set(palette)) == count
    assert palette[:1] == default_palette(1)
    assert all(0 <= part <= 255 for colour in palette for part in colour)


@pytest.mark.parametrize(
    "lines",
    [
        ["0 128 64 128 road", "1 0 0 0 sky"],
        ["road 128 64 128 0", "sky 0 0 0 1"],
        ["road,128,64,128,255", "sky,0,0,0,255"],
        ["lane 1 0 255 0", "lane 2 255 0 0"],
    ],
)
def test_a_column_of_numbers_beside_the_colours_is_refused(lines):
    with pytest.raises(DataError, match=r"has more than three numbers; .* or the colour as #"):
        parse_classes(lines, "file")


def test_a_name_may_end_with_a_number_before_its_colour():
    names = ("lane 2", "road2", "sky")
    lines = ["lane 2 0 255 0", "road2 255 0 0", "sky 0 0 255"]
    assert parse_classes(lines, "file").names == names
    lines = ["lane 2 #00ff00", "#ff0000 road2", "sky 0 0 255"]
    stated = parse_classes(["# a comment", "#comment", *lines], "file")
    assert stated.names == names
    assert stated.colours == ((0, 255, 0), (255, 0, 0), (0, 0, 255))


def test_one_class_leaves_none_to_ignore():
    with pytest.raises(DataError, match=r"names only 'crack', so --pipeline.data.ignore void"):
        parse_classes(["crack"], "file", ignored=["void"])
