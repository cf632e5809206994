"""Pieces of the report's HTML; everything that is shown passes through `escape` here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from analysis.front_table import Cell, FrontTableInfo


def render_page(title: str, body: str) -> str:
    """Return one HTML document that needs no other file and no network."""
    css = files("analysis").joinpath("report.css").read_text(encoding="utf-8")
    js = files("analysis").joinpath("report.js").read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n"
        '<link rel="icon" href="data:,">\n'
        f"<style>\n{css}</style>\n"
        f"<script>{get_plotlyjs()}</script>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n<script>\n{js}</script>\n</body>\n</html>\n"
    )


def render_figure(name: str, figure: go.Figure, *, min_width: int = 0) -> str:
    """Return the place of a figure and its data; the page's script draws it.

    Args:
        name: Unique in the page.
        figure: The figure.
        min_width: Pixels below which it scrolls sideways instead of getting narrower.
    """
    # In a script element only "</" and "<!--" are special; JSON may write "<" as \u003c.
    data = json.dumps(json.loads(figure.to_json()), separators=(",", ":")).replace("<", "\\u003c")
    height = int(figure.layout.height)
    place = f'<div class="figure" style="height:{height}px" data-figure="{escape(name)}"></div>'
    if min_width:
        place = f'<div class="scroll"><div style="min-width:{min_width}px">{place}</div></div>'
    return f'{place}\n<script type="application/json" id="{escape(name)}">{data}</script>'


def render_absent(reason: str) -> str:
    """Return what stands where a figure could not be made."""
    return f'<p class="absent">Not drawn: {escape(reason)}</p>'


def render_tiles(tiles: Sequence[tuple[str, str, str]]) -> str:
    """Return a row of (label, value, remark) numbers."""
    cells = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}"
        + (f"<small>{escape(remark)}</small>" if remark else "")
        + "</dd></div>"
        for label, value, remark in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def render_facts(facts: Mapping[str, str]) -> str:
    """Return names and values below each other."""
    cells = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()
    )
    return f'<dl class="facts">{cells}</dl>'


def render_notes(notes: Sequence[str]) -> str:
    """Return a marked box of remarks, nothing without any."""
    if not notes:
        return ""
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f'<div class="notes" role="note"><ul>{items}</ul></div>'


def render_front_table(info: FrontTableInfo) -> str:
    """Return the sortable table of the front."""
    is_text = [
        all(isinstance(row[column].order, str) for row in info.rows)
        for column in range(len(info.columns))
    ]
    head = "".join(
        f'<th scope="col"{_text_class(text)}><button type="button">{escape(title)}</button></th>'
        for title, text in zip(info.columns, is_text, strict=True)
    )
    body = "".join(
        "<tr>" + "".join(_render_cell(*pair) for pair in zip(row, is_text, strict=True)) + "</tr>\n"
        for row in info.rows
    )
    table = f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return f'<div class="scroll">{table}</div>'


def render_text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain table of texts; the last column may wrap."""
    head = "".join(f'<th scope="col" class="text">{escape(title)}</th>' for title in columns)
    last = len(columns) - 1
    body = "".join(
        "<tr>"
        + "".join(
            f'<td class="{"reason" if i == last else "text"}">{escape(cell)}</td>'
            for i, cell in enumerate(row)
        )
        + "</tr>\n"
        for row in rows
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def flatten_facts(value: Any, name: str = "") -> dict[str, str]:
    """Return nested JSON as one level of names ("cpu count") and texts."""
    if isinstance(value, Mapping):
        facts: dict[str, str] = {}
        for key, inner in value.items():
            facts |= flatten_facts(inner, f"{name} {key}".strip().replace("_", " "))
        return facts
    if isinstance(value, list):
        return {name: ", ".join(str(item) for item in value)}
    return {} if value is None else {name: str(value)}


def _text_class(text: bool) -> str:
    return ' class="text"' if text else ""


def _render_cell(cell: Cell, text: bool) -> str:
    shown = escape(cell.text)
    if cell.link:
        shown = f'<a href="{escape(cell.link)}">{shown}</a>'
    return f'<td{_text_class(text)} data-order="{escape(str(cell.order))}">{shown}</td>'
