"""Parts of the report's HTML; all shown text is escaped here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from analysis.figures.theme import DARK
from analysis.front_table import Cell, FrontTableInfo

PLOTLY_FILE = "plotly.min.js"
SCRIPTS = ("choosing.js", "pictures.js", "report.js")


def write_plotly(folder: Path) -> None:
    """Write plotly, which draws the figures, beside the page; the page loads it after its text."""
    (folder / PLOTLY_FILE).write_text(get_plotlyjs(), encoding="utf-8")


def render_page(title: str, body: str) -> str:
    """Return an HTML page that works offline, with plotly.min.js and the pictures beside it."""
    css = _read("report.css")
    scripts = "\n".join(f"{{\n{_read(name)}}}" for name in SCRIPTS)
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n"
        '<link rel="icon" href="data:,">\n'
        f"<style>\n{css}</style>\n"
        f"<script>document.documentElement.className='js'</script>\n</head>\n<body>\n"
        f"<main>\n{body}\n</main>\n{render_data('dark-colors', DARK)}\n"
        f'<script data-plotly="{PLOTLY_FILE}">\n{scripts}\n</script>\n'
        "</body>\n</html>\n"
    )


def render_data(name: str, content: Any) -> str:
    """Return a script element of JSON that the page's scripts read by its id."""
    # Only "</" and "<!--" are special in a script element, and JSON can write "<" as \\u003c.
    data = json.dumps(content, separators=(",", ":")).replace("<", "\\u003c")
    return f'<script type="application/json" id="{escape(name)}">{data}</script>'


def render_figure(name: str, figure: go.Figure, *, alt: str, min_width: int = 0) -> str:
    """Return a placeholder for a figure and its data; the page's script draws it.

    Args:
        name: Name of the figure, unique in the page.
        figure: The figure.
        alt: Alternative text for readers who cannot see the figure.
        min_width: Width in pixels below which the figure scrolls sideways instead of shrinking.
    """
    height = int(figure.layout.height)
    place = (
        f'<div class="figure" role="img" aria-label="{escape(alt)}" style="height:{height}px" '
        f'data-figure="{escape(name)}"></div>'
    )
    if min_width:
        place = f'<div class="scroll"><div style="min-width:{min_width}px">{place}</div></div>'
    return f"{place}\n{render_data(name, json.loads(figure.to_json()))}"


def render_absent(reason: str) -> str:
    """Return the text that replaces a figure that could not be made."""
    return f'<p class="absent">Not drawn: {escape(reason)}</p>'


class Tile(NamedTuple):
    """A number at the top of the page.

    Attributes:
        label: Name of the number.
        value: The number as text.
        remark: Text below the number; "" for none.
        link: Address that the remark links to; "" for none.
    """

    label: str
    value: str
    remark: str = ""
    link: str = ""


def render_tiles(tiles: Sequence[Tile]) -> str:
    """Return a row of tiles."""
    cells = "".join(
        f"<div><dt>{escape(tile.label)}</dt><dd>{escape(tile.value)}{_render_remark(tile)}</dd></div>"
        for tile in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


def render_facts(facts: Mapping[str, str]) -> str:
    """Return a list of names and values."""
    cells = "".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts.items()
    )
    return f'<dl class="facts">{cells}</dl>'


def render_notes(notes: Sequence[str]) -> str:
    """Return a highlighted box of notes; "" if there are none."""
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
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table">{table}</div>'


def render_text_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a plain table of texts, whose last column may wrap."""
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
    return f'<div class="scroll" tabindex="0" role="region" aria-label="Table">{table}</div>'


def flatten_facts(value: Any, name: str = "") -> dict[str, str]:
    """Flatten nested JSON to one level of names (such as "cpu count") and texts."""
    if isinstance(value, Mapping):
        facts: dict[str, str] = {}
        for key, inner in value.items():
            facts |= flatten_facts(inner, f"{name} {key}".strip().replace("_", " "))
        return facts
    if isinstance(value, list):
        return {name: ", ".join(str(item) for item in value)}
    return {} if value is None else {name: str(value)}


def _read(name: str) -> str:
    return files("analysis").joinpath(name).read_text(encoding="utf-8")


def _render_remark(tile: Tile) -> str:
    if not tile.remark:
        return ""
    text = escape(tile.remark)
    return (
        f'<small><a href="{escape(tile.link)}">{text}</a></small>'
        if tile.link
        else (f"<small>{text}</small>")
    )


def _text_class(text: bool) -> str:
    return ' class="text"' if text else ""


def _render_cell(cell: Cell, text: bool) -> str:
    shown = escape(cell.text)
    if cell.link:
        shown = f'<a href="{escape(cell.link)}">{shown}</a>'
    return f'<td{_text_class(text)} data-order="{escape(str(cell.order))}">{shown}</td>'
