"""Read a run's table as text, so that every cell can be checked and named in an error."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd


class ResultsError(ValueError):
    """Raised if a results file is missing, broken or does not fit the others; names the file."""


def read_table(path: Path, *, required: Sequence[str]) -> pd.DataFrame:
    """Read a CSV file and keep all cells as text; an empty cell is "".

    Args:
        path: Path of the file.
        required: Columns that it must have.

    Raises:
        ResultsError: The file is missing or empty, a column is missing, or a row has more or fewer
            cells than the header; the message names the line.
    """
    if not path.is_file():
        raise ResultsError(f"{path}: missing (is {path.parent} a run folder?)")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # a row longer than the header
            table = pd.read_csv(
                path,
                dtype=str,
                keep_default_na=False,
                index_col=False,
                encoding="utf-8",
                engine="python",  # the other engines read a missing cell as an empty one
            )
    except pd.errors.EmptyDataError:
        raise ResultsError(f"{path}: empty, not even a header") from None
    except (pd.errors.ParserError, pd.errors.ParserWarning, UnicodeDecodeError) as error:
        raise ResultsError(f"{path}: not a table of rows of equal length: {error}") from None
    for column in required:
        if column not in table.columns:
            raise ResultsError(f"{path}: column {column!r} is missing, has {list(table.columns)}")
    short = table.isna().any(axis=1).to_numpy()
    if short.any():
        line = line_number(int(short.argmax()))
        raise ResultsError(
            f"{path}, line {line}: it does not have the {len(table.columns)} cells of the header"
        )
    return table


def parse_numbers(table: pd.DataFrame, column: str, path: Path, *, strict: bool) -> pd.Series:
    """Read a column of finite numbers; an empty cell becomes NaN.

    Args:
        table: Table from `read_table`.
        column: Name of a column.
        path: Path of the file, for messages.
        strict: Raise an error for text that is not a finite number; otherwise it becomes NaN.

    Raises:
        ResultsError: A cell is not a finite number; the message names its line and text.
    """
    texts = table[column]
    numbers = pd.to_numeric(texts, errors="coerce").astype(float)
    numbers = numbers.where(np.isfinite(numbers), np.nan)
    wrong = (numbers.isna() & ~texts.isin(MISSING)).to_numpy()
    if strict and wrong.any():
        row = int(texts.index[wrong][0])
        raise ResultsError(
            f"{path}, line {line_number(row)}: column {column!r} is {texts[row]!r}, "
            "not a finite number"
        )
    return numbers


def line_number(row: int) -> int:
    """Return the line number of a row; the header is line 1."""
    return row + 2


MISSING = ("", "nan", "NaN", "None")
"""Texts of cells that have no value."""
