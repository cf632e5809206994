"""Write the papers' tables as HTML, CSV and LaTeX, and one page with all of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from analysis.papers.figures import PaperFigure
from analysis.papers.published_tables import RATIO
from analysis.papers.tables import NOTE, OURS, PAPER, SOURCE, PaperTable
from analysis.quantities import format_number

MISSING = "–"


def write_tables(
    tables: Sequence[PaperTable], figures: Sequence[PaperFigure], folder: Path
) -> Path:
    """Write <name>.csv and <name>.tex of each table, and index.html.

    Args:
        tables: The tables.
        figures: Figures that are already in the folder.
        folder: Folder to write to.

    Returns:
        Path of index.html.
    """
    parts = ["<header><h1>The papers' tables and figures</h1>"]
    parts.append(
        '<p class="lead">Our numbers beside the papers\'. They were measured under different '
        "conditions, so do not rank them against each other.</p></header>"
    )
    for table in tables:
        path = folder / f"{table.name}.csv"
        table.rows.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")
        (folder / f"{table.name}.tex").write_text(render_latex(table), encoding="utf-8")
        parts.append(_render_section(table))
    parts += [_render_figure(figure) for figure in figures]
    css = files("analysis").joinpath("report.css").read_text(encoding="utf-8")
    index = folder / "index.html"
    index.write_text(
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>Papers\' tables</title>\n<link rel="icon" href="data:,">\n<style>\n{css}</style>\n'
        "</head>\n<body>\n<main>\n" + "\n".join(parts) + "\n</main>\n</body>\n</html>\n",
        encoding="utf-8",
    )
    return index


def render_latex(table: PaperTable) -> str:
    """Return the table as a LaTeX float (with booktabs) whose caption states the conditions."""
    escapes = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | {"×": r"$\times$", "α": r"$\alpha$",
                             "β": r"$\beta$", "η": r"$\eta$", "–": "--"})  # fmt: skip
    texts = _format(table.rows).map(lambda text: text.translate(escapes))
    texts.columns = [str(name).translate(escapes) for name in texts.columns]
    numbers = "".join("r" if _is_numeric(table.rows[name]) else "l" for name in table.rows)
    sentences = [table.title, *table.conditions]
    caption = " ".join(f"{text.removesuffix('.')}." for text in sentences).translate(escapes)
    latex: str = texts.to_latex(
        index=False,
        escape=False,
        column_format=numbers,
        caption=caption,
        label=f"tab:{table.name}",
    )
    return latex


def _render_section(table: PaperTable) -> str:
    texts = _format(table.rows)
    head = "".join(
        f'<th scope="col"{_text_class(table.rows[name])}>{escape(str(name))}</th>' for name in texts
    )
    body = "".join(
        f'<tr class="{texts[SOURCE][row]}">'
        + "".join(
            f"<td{_text_class(table.rows[name])}>{escape(texts[name][row])}</td>" for name in texts
        )
        + "</tr>\n"
        for row in texts.index
    )
    conditions = "".join(f"<li>{escape(text)}</li>" for text in table.conditions)
    links = ", ".join(f'<a href="{table.name}.{kind}">{kind}</a>' for kind in ("csv", "tex"))
    missing = (
        ""
        if (table.rows[SOURCE] == OURS).any()
        else ('<p class="absent">None of the runs has numbers for this table.</p>')
    )
    return (
        f'<section><h2>{escape(table.title)}</h2><ul class="hint">{conditions}</ul>{missing}'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(table.title)}">'
        f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p class="hint">As {links}.</p></section>'
    )


def _render_figure(figure: PaperFigure) -> str:
    remark = f'<p class="hint">{escape(figure.remark)}</p>' if figure.remark else ""
    return (
        f"<section><h2>{escape(figure.title)}</h2>{remark}"
        f'<img class="drawing" loading="lazy" src="{escape(quote(figure.file))}" '
        f'alt="{escape(figure.alt)}"></section>'
    )


def _format(rows: pd.DataFrame) -> pd.DataFrame:
    """Return all cells as text: the papers' numbers as printed, ours with significant digits.

    Pruning ratios are settings, so they are printed as they were set.
    """
    texts = [
        {
            name: _format_cell(value, row[SOURCE] == PAPER or name == RATIO)
            for name, value in row.items()
        }
        for row in rows.to_dict(orient="records")
    ]
    return pd.DataFrame(texts, columns=rows.columns)


def _format_cell(value: float | str, as_printed: bool) -> str:
    if isinstance(value, str):
        return value
    if math.isnan(value):
        return MISSING
    return f"{value:g}" if as_printed else format_number(value)


def _is_numeric(column: pd.Series) -> bool:
    return bool(pd.api.types.is_numeric_dtype(column))


def _text_class(column: pd.Series) -> str:
    if _is_numeric(column):
        return ""
    return ' class="reason"' if column.name == NOTE else ' class="text"'
