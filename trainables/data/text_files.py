"""Reads lists and class names from text files of any editor and system."""

from __future__ import annotations

import codecs
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TypeVar

from trainables.data.dataset import DataError

Item = TypeVar("Item", bound=Hashable)

# The marks of UTF-32 come first, because they begin with those of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Read the lines of a text file, stripped of spaces; empty lines are kept.

    A byte order mark determines the Unicode encoding and is removed; without one the given encoding
    is used. Line ends of all systems are accepted.

    Args:
        path: Path of the file.
        encoding: Encoding, such as "utf-8", "cp1252" or "gb18030".

    Raises:
        DataError: The file is missing or is not text in this encoding; the message names the
            remedy.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: file is missing or cannot be read ({error.strerror})") from None
    marked = next((name for mark, name in _MARKS if content.startswith(mark)), None)
    try:
        text = content.decode(marked or encoding)
    except LookupError:
        raise DataError(f"{path}: there is no text encoding {encoding!r}; try utf-8") from None
    except UnicodeDecodeError as error:
        number = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: line {number} is not text in {marked or encoding} "
            f"(byte 0x{content[error.start]:02x}); save the file as UTF-8, or name its encoding, "
            "for example --pipeline.data.encoding cp1252"
        ) from None
    if "\0" in text:
        raise DataError(
            f"{path}: holds zero bytes, as UTF-16 without a byte order mark does; save the file as "
            "UTF-8, or set --pipeline.data.encoding utf-16-le"
        )
    # Not str.splitlines, which also splits at rare separators that a name may contain.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]


def warn_of_repeats(
    list_name: str, items: Sequence[Item], name_of: Callable[[Item], str]
) -> list[str]:
    """Return a warning if a list names an item more than once.

    Args:
        list_name: Name of the list.
        items: Images or pairs that the list names, in order.
        name_of: Function that returns the name of an item.
    """
    repeated = [item for item, count in Counter(items).items() if count > 1]
    if not repeated:
        return []
    number = len(items) - len(set(items))
    return [
        f"{list_name} repeats images in {number} line{'s' * (number > 1)}, such as "
        f"{name_of(repeated[0])!r}; each image counts once"
    ]
