"""Names of the classes, and their colours in the masks."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from trainables.data.dataset import IGNORE_INDEX, DataError
from trainables.data.palette import Colour

BACKGROUND = "background"
_COLOUR = r"(?P<red>\d{1,3})[\s,;]+(?P<green>\d{1,3})[\s,;]+(?P<blue>\d{1,3})"
_NAME_THEN_COLOUR = re.compile(
    rf"(?P<name>.*?[^\s,;:=(\[])[\s,;:=(\[]+{_COLOUR}[\s,;:)\]]*", re.ASCII
)
_NAME_THEN_HEX = re.compile(r"(?P<name>.*?[^\s,;:=])[\s,;:=]+#(?P<hex>[0-9a-fA-F]{6})")
_HEX_THEN_NAME = re.compile(r"#(?P<hex>[0-9a-fA-F]{6})[\s,;:]+(?P<name>\S.*)")
_COLOUR_THEN_NAME = re.compile(rf"{_COLOUR}[\s,;:]+(?P<name>\S.*)", re.ASCII)
_FOUR_NUMBERS = re.compile(r"(?<![^\s,;:=(\[])\d+([\s,;]+\d+){3}", re.ASCII)
_HEADER = re.compile(r"(name|class|label)[\s,;]+r(ed)?[\s,;]+g(reen)?[\s,;]+b(lue)?", re.IGNORECASE)


class ClassList(NamedTuple):
    """The content of a file of classes.

    Attributes:
        names: Names of the classes, in order.
        colours: RGB of each class in the masks; None: the masks contain labels, not colours.
        train_ids: Label in the target for each line of the file; 255 for an ignored class.
        num_stated: Number of classes in the file; a single class is distinguished from a
            background.
    """

    names: tuple[str, ...]
    colours: tuple[Colour, ...] | None
    train_ids: tuple[int, ...]
    num_stated: int

    @property
    def kept_colours(self) -> tuple[Colour, ...] | None:
        """Colours of the classes that are not ignored, in the order of the names."""
        if self.colours is None:
            return None
        pairs = zip(self.colours, self.train_ids, strict=True)
        return tuple(colour for colour, train_id in pairs if train_id != IGNORE_INDEX)


def parse_classes(lines: Sequence[str], origin: str, *, ignored: Iterable[str] = ()) -> ClassList:
    """Read one class per line: its name and, for masks in colours, its colour.

    A colour is written ``crop 0 255 0``, ``crop,0,255,0``, ``crop #00ff00``, ``0 255 0 crop`` or
    ``#00ff00 crop``. Any other line that begins with "#" is a comment. A single class is
    distinguished from a background, which becomes class 0. In masks of labels the class is 1; in
    masks of colours the background is black (white if the class itself is black).

    Args:
        lines: Lines of a file or of the command line.
        origin: Name of their source, for error messages.
        ignored: Names of classes whose pixels count neither in a loss nor in a metric.

    Raises:
        DataError: There are no or too many classes, an empty line between them, a duplicate name or
            colour, a column of numbers beside the colours, colours for only some classes, or a
            single class and names to ignore.
    """
    stated = [line for line in lines if not _is_comment(line) and not _HEADER.fullmatch(line)]
    while stated and not stated[-1]:
        stated.pop()
    if not 1 <= len(stated) <= IGNORE_INDEX or not all(stated):
        raise DataError(
            f"{origin}: must name 1 to {IGNORE_INDEX} classes, one per line, none empty; "
            f"got {stated!r}"
        )
    parsed = [_parse_line(line, origin) for line in stated]
    names = [name for name, _ in parsed]
    colours = [colour for _, colour in parsed if colour is not None]
    _check_columns(stated, parsed, origin)
    _check_unique(names, "class", origin)
    _check_unique(colours, "colour", origin)
    if colours and len(colours) != len(names):
        without = [name for name, colour in parsed if colour is None]
        raise DataError(
            f"{origin}: {', '.join(without)} has no colour, but other classes have one; write one "
            "for "
            "each class, as in 'crop 0 255 0', or for none"
        )
    if len(names) == 1:
        if ignored := tuple(ignored):
            raise DataError(
                f"{origin}: names only {names[0]!r}, so --pipeline.data.ignore {' '.join(ignored)} "
                "cannot be used"
            )
        return _add_background(names[0], colours[0] if colours else None, origin)
    return _leave_out(names, tuple(colours) or None, tuple(ignored), origin)


def _is_comment(line: str) -> bool:
    return line.startswith("#") and not _HEX_THEN_NAME.fullmatch(line)


def _check_columns(
    lines: Sequence[str], parsed: Sequence[tuple[str, Colour | None]], origin: str
) -> None:
    """Raise an error if all lines with a colour have a fourth number, such as a label or alpha."""
    coloured = [line for line, (_, colour) in zip(lines, parsed, strict=True) if colour is not None]
    if coloured and all(_FOUR_NUMBERS.search(line) for line in coloured):
        raise DataError(
            f"{origin}: {coloured[0]!r} has more than three numbers; write a name and the three "
            "numbers of its colour, or the colour as #00ff00 if the name ends with a number"
        )


def _parse_line(line: str, origin: str) -> tuple[str, Colour | None]:
    if match := _NAME_THEN_HEX.fullmatch(line) or _HEX_THEN_NAME.fullmatch(line):
        red, green, blue = bytes.fromhex(match["hex"])
        return match["name"].strip("\"' "), (red, green, blue)
    match = _NAME_THEN_COLOUR.fullmatch(line) or _COLOUR_THEN_NAME.fullmatch(line)
    if match is None:
        return line, None
    red, green, blue = int(match["red"]), int(match["green"]), int(match["blue"])
    if max(red, green, blue) > 255:
        raise DataError(f"{origin}: {line!r} has a colour above 255; each part is 0 to 255")
    return match["name"].strip("\"' "), (red, green, blue)


def _check_unique(values: Sequence[object], kind: str, origin: str) -> None:
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise DataError(f"{origin}: names a {kind} twice: {', '.join(twice)}")


def _add_background(name: str, colour: Colour | None, origin: str) -> ClassList:
    if name.casefold() == BACKGROUND:
        raise DataError(
            f"{origin}: names only {name!r}; also name the class to distinguish from it"
        )
    other = (255, 255, 255) if colour == (0, 0, 0) else (0, 0, 0)
    return ClassList((BACKGROUND, name), None if colour is None else (other, colour), (0, 1), 1)


def _leave_out(
    names: list[str], colours: tuple[Colour, ...] | None, ignored: tuple[str, ...], origin: str
) -> ClassList:
    unknown = [name for name in ignored if name not in names]
    if unknown:
        raise DataError(
            f"{origin}: has no class {', '.join(unknown)} to ignore; it has {', '.join(names)}"
        )
    kept = [name for name in names if name not in ignored]
    if len(kept) < 2:
        raise DataError(f"{origin}: leaves fewer than two classes that are not ignored: {kept}")
    train_ids = tuple(kept.index(name) if name in kept else IGNORE_INDEX for name in names)
    return ClassList(tuple(kept), colours, train_ids, len(names))
