"""Maps the labels or colours of a mask to train ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainables.data.dataset import IGNORE_INDEX, DataError
from trainables.data.image_decoding import UInt8Array
from trainables.data.label_files import Mask, name_colours
from trainables.data.palette import Colour


class LabelTable:
    """Maps the values of a mask to train ids; raises an error for values of no class.

    Args:
        classes: Names of the classes.
        train_ids: Train id of each label, or 255 for ignored.
        colours: Train id of each RGB colour, or 255 for ignored; None: masks contain labels.
    """

    def __init__(
        self,
        classes: Sequence[str],
        train_ids: Mapping[int, int],
        colours: Mapping[Colour, int] | None,
    ) -> None:
        self._num_classes = len(classes)
        self._train_ids = train_ids
        self._table = np.full(256, -1, dtype=np.int16)
        for label, train_id in train_ids.items():
            self._table[label] = train_id
        self._colours = colours
        # If all colours are grey, a mask of one channel is looked up as colours; else it has
        # labels.
        self._are_greys = colours is not None and all(r == g == b for r, g, b in colours)

    def to_train_ids(self, mask: Mask, path: Path) -> UInt8Array:
        """Return the train id of every pixel, (H, W) uint8.

        Args:
            mask: Decoded mask.
            path: Path of the mask, for error messages.

        Raises:
            DataError: A label or colour belongs to no class; the message names it, its number of
                pixels and what is allowed.
        """
        values = mask.values
        if values.ndim == 3:
            return self._look_up_colours(mask, path)
        if self._are_greys:
            grey = np.repeat(values[..., None], 3, axis=2)
            return self._look_up_colours(Mask(grey), path)
        bounded = values if values.dtype == np.uint8 else np.clip(values, 0, 255)
        train_ids = self._table[bounded]
        wrong = (train_ids < 0) | (bounded != values)
        if wrong.any():
            raise DataError(self._describe_labels(values[wrong], path))
        checked: UInt8Array = train_ids.astype(np.uint8)
        return checked

    def _look_up_colours(self, mask: Mask, path: Path) -> UInt8Array:
        colours = self._colours or {}
        red, green, blue = (mask.values[..., channel].astype(np.int32) for channel in range(3))
        codes = (red << 16) | (green << 8) | blue
        train_ids = np.full(codes.shape, -1, dtype=np.int16)
        for (r, g, b), train_id in colours.items():
            train_ids[codes == (r << 16 | g << 8 | b)] = train_id
        wrong = train_ids < 0
        if wrong.any():
            declared = ", ".join(" ".join(map(str, colour)) for colour in colours)
            remedy = "give it a line in the file of classes"
            if mask.is_palette:
                remedy += ", or leave out all colours there to read the palette's indices as labels"
            raise DataError(
                f"{path}: holds colour {name_colours(mask.values[wrong])} of no class; declared "
                "colours "
                f"are {declared}; {remedy}; name classes to ignore by --pipeline.data.ignore"
            )
        return train_ids.astype(np.uint8)

    def _describe_labels(self, wrong: npt.NDArray[Any], path: Path) -> str:
        values, counts = np.unique(wrong, return_counts=True)
        found = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:5], counts[:5], strict=True))
        more = f" and {len(values) - 5} more" if len(values) > 5 else ""
        return (
            f"{path}: holds label {found}{more} outside the {self._num_classes} classes; "
            f"allowed are {_spell_labels(self._train_ids)}"
            f"{self._hint_at(values.tolist())}"
        )

    def _hint_at(self, wrong: list[int]) -> str:
        """Return a hint at the usual reason for labels beyond the classes."""
        stated = [label for label in self._train_ids if label != IGNORE_INDEX]
        if stated != list(range(len(stated))):
            return ""
        if wrong == [len(stated)]:
            return (
                "; labels count from 0: if 0 is not a class, put a line 'void' first in the file "
                "of "
                "classes and set --pipeline.data.ignore void"
            )
        return (
            "; if these greys are classes, write each after the name of its class in the "
            "file of classes, as in 'crop 128 128 128'"
        )


def _spell_labels(train_ids: Mapping[int, int]) -> str:
    kept = sorted(label for label, train_id in train_ids.items() if train_id != 255)
    ignored = sorted(label for label, train_id in train_ids.items() if train_id == 255)
    text = _spell_ranges(kept)
    return f"{text} and {_spell_ranges(ignored)} (ignored)" if ignored else text


def _spell_ranges(values: list[int]) -> str:
    """Write [0, 1, 2, 7] as "0 to 2, 7"."""
    runs: list[list[int]] = []
    for value in values:
        if runs and value == runs[-1][-1] + 1:
            runs[-1].append(value)
        else:
            runs.append([value])
    return ", ".join(f"{r[0]} to {r[-1]}" if len(r) > 2 else ", ".join(map(str, r)) for r in runs)
