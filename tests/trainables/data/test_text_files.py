from __future__ import annotations

import pytest

from trainables.data import DataError
from trainables.data.text_files import read_lines

NAMES = ["Straße", "車道", "tree"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("ends", [True, False])
def test_every_unicode_text_is_read(tmp_path, encoding, newline, ends):
    text = newline.join([NAMES[0] + "  ", *NAMES[1:]]) + (newline if ends else "")
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_lines(tmp_path / "a.txt") == NAMES


@pytest.mark.parametrize("encoding", ["gb18030", "shift_jis"])
def test_other_encodings_are_read_by_name_and_else_named_in_the_error(tmp_path, encoding):
    path = tmp_path / "liste.txt"
    path.write_bytes("tree\n車道\n".encode(encoding))
    assert read_lines(path, encoding) == ["tree", "車道"]
    with pytest.raises(DataError, match=r"line 2 is not text in utf-8 .*--pipeline.data.encoding"):
        read_lines(path)
    with pytest.raises(DataError, match=r"liste\.txt"):
        read_lines(path)


def test_latin_1_and_unmarked_utf_16_are_errors_that_name_the_file(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_bytes("Straße\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"classes\.txt: line 1"):
        read_lines(path)
    path.write_bytes("ab\n".encode("utf-16-le"))
    with pytest.raises(DataError, match=r"classes\.txt: holds zero bytes.*utf-16-le"):
        read_lines(path)
    with pytest.raises(DataError, match="no text encoding 'klingon'"):
        read_lines(path, "klingon")
    with pytest.raises(DataError, match="missing"):
        read_lines(tmp_path / "none.txt")
