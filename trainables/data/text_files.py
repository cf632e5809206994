"""Lists and class names as text, whatever editor and system wrote the file."""

from __future__ import annotations

import codecs
from pathlib import Path

from trainables.data.dataset import DataError

# The longer mark first: the one of UTF-32 begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_lines(path: Path, encoding: str = "utf-8") -> list[str]:
    """Lines of a text file, without blanks at both ends; empty lines stay.

    A byte order mark says which Unicode it is and is removed; without one the encoding is that
    given. Lines may end as on any system.

    Args:
        path: The file.
        encoding: Such as "utf-8", "cp1252" or "gb18030".

    Raises:
        DataError: The file is missing, or is not text of this encoding; names file and remedy.
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
            "UTF-8, or say --pipeline.data.encoding utf-16-le"
        )
    # Not str.splitlines: a name may hold the rarer separators that it splits at.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]
