"""Colours, fonts and layout that all figures share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import plotly.graph_objects as go

INK = "#1b2530"
MUTED = "#5b6875"
GRID = "#e6eaee"
FRONT = "#1d5fa7"
OTHER_FRONT = "#8fb7df"
DOMINATED = "#c3ccd5"
PAPER = "#8a949e"
BASELINES = ("#c4511d", "#2f8265", "#7a4fa3", "#a8791a")
BASELINE_SYMBOLS = ("diamond", "square", "triangle-up", "cross")
SEQUENCE = ("#1d5fa7", "#c4511d", "#2f8265", "#7a4fa3", "#a8791a", "#4a90a4")
COLOUR_SCALE = ((0.0, "#d9e4ef"), (0.5, "#6fa1d2"), (1.0, "#123f73"))
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

SURFACE, HOVER, LINE = "white", "#ffffff", "#b4bec8"
DARK = {
    INK: "#e6ebf0",
    MUTED: "#a3afba",
    GRID: "#2b343d",
    FRONT: "#6aa9ee",
    OTHER_FRONT: "#4a78a8",
    DOMINATED: "#56616c",
    PAPER: "#8a949e",
    "#c4511d": "#f08a5a",
    "#2f8265": "#5cc09c",
    "#7a4fa3": "#b893dd",
    "#a8791a": "#d9ab4e",
    "#4a90a4": "#7cc0d3",
    LINE: "#4b5762",
    SURFACE: "#14191f",
    HOVER: "#232b33",
    "#d9e4ef": "#2c3f52",
    "#6fa1d2": "#5f97cf",
    "#123f73": "#b9dcff",
}
"""Colour on a light page -> colour on a dark page; the page's script exchanges them."""

LOG_RATIO = 8.0


class FigureNotMadeError(ValueError):
    """Raised if the results lack what a figure needs; the report shows the message."""


def needs_log(values: Sequence[float]) -> bool:
    """Whether positive values spread so far that a linear scale would squash the small ones."""
    return min(values) > 0 and max(values) / min(values) >= LOG_RATIO


def axis(title: str, **options: Any) -> dict[str, Any]:
    """Return the settings of a linear axis with this title."""
    settings: dict[str, Any] = {
        "title": {"text": title, "font": {"size": 13, "color": MUTED}, "standoff": 10},
        "gridcolor": GRID,
        "linecolor": LINE,
        "showline": True,
        "zeroline": False,
        "ticks": "outside",
        "ticklen": 4,
        "tickcolor": LINE,
        "tickfont": {"size": 12, "color": MUTED},
        "automargin": True,
    }
    return settings | options


def log_axis(title: str) -> dict[str, Any]:
    """Return the settings of a logarithmic axis with ticks at 1, 2 and 5."""
    return axis(title, type="log", dtick="D2", tickformat="~g")


def apply_theme(figure: go.Figure, *, height: int = 430) -> go.Figure:
    """Give a figure the shared look: white background, small margins, legend above."""
    figure.update_layout(
        template="none",
        height=height,
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor=SURFACE,
        plot_bgcolor=SURFACE,
        margin={"l": 12, "r": 12, "t": 12, "b": 12},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": 1.02,
            "yanchor": "bottom",
            "font": {"size": 12},
            "itemsizing": "constant",
            "entrywidth": 0,
            "entrywidthmode": "pixels",
        },
        hoverlabel={
            "bgcolor": HOVER,
            "bordercolor": LINE,
            "font": {"family": FONT, "size": 12, "color": INK},
            "align": "left",
        },
        hovermode="closest",
    )
    return figure
