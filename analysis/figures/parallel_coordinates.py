"""Draws settings and objectives side by side, with one line for each measured trial."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import plotly.graph_objects as go

from analysis.figures import theme
from analysis.quantities import format_number, format_setting
from analysis.results import Results
from analysis.summary import Summary
from analysis.trials_csv import Setting

LOG_RATIO = 30.0


class Dimension(NamedTuple):
    """One vertical axis.

    Attributes:
        label: Name of the setting, or title of the objective.
        values: Position of each trial on the axis.
        tick_values: Positions of the ticks; None lets plotly choose them.
        tick_texts: Texts of the ticks; None lets plotly choose them.
    """

    label: str
    values: list[float]
    tick_values: list[float] | None = None
    tick_texts: list[str] | None = None


class ParallelCoordinatesInfo(NamedTuple):
    """The content of the figure.

    Attributes:
        dimensions: Axes of the settings that vary, then of the objectives.
        colors: First objective of each trial, in shown units.
        color_title: Title of the first objective.
    """

    dimensions: list[Dimension]
    colors: list[float]
    color_title: str


def plot_parallel_coordinates(results: Results, summary: Summary) -> go.Figure:
    """Draw every measured trial as a line across its settings and objectives.

    Raises:
        FigureNotMadeError: There are fewer than two measured trials.
    """
    info = _get_parallel_coordinates_info(results, summary)
    dimensions = [
        {"label": item.label, "values": item.values}
        | ({"tickvals": item.tick_values, "ticktext": item.tick_texts} if item.tick_values else {})
        for item in info.dimensions
    ]
    figure = go.Figure(
        go.Parcoords(
            dimensions=dimensions,
            line={
                "color": info.colors,
                "colorscale": theme.COLOUR_SCALE,
                "showscale": True,
                "colorbar": {
                    "title": {"text": info.color_title, "side": "right"},
                    "thickness": 10,
                    "outlinewidth": 0,
                },
            },
            labelfont={"size": 12, "color": theme.INK},
            tickfont={"size": 11, "color": theme.MUTED},
            rangefont={"size": 1, "color": "rgba(0,0,0,0)"},
        )
    )
    theme.apply_theme(figure, height=400)
    figure.update_layout(margin={"l": 84, "r": 24, "t": 56, "b": 24})
    return figure


def _get_parallel_coordinates_info(results: Results, summary: Summary) -> ParallelCoordinatesInfo:
    trials = [*summary.dominated, *summary.front]
    if len(trials) < 2:
        raise theme.FigureNotMadeError("Fewer than two networks have been measured to the end.")
    dimensions = []
    for name in results.varied_settings:
        column = [trial.settings.get(name) for trial in trials]
        if len(set(column)) > 1:
            dimensions.append(_get_dimension(results.setting_labels[name], column))
    for objective in results.objectives:
        quantity = objective.quantity
        shown = [quantity.shown(trial.measures[objective.name]) for trial in trials]
        dimensions.append(Dimension(quantity.title, shown))
    first = results.objectives[0]
    colors = [first.quantity.shown(trial.measures[first.name]) for trial in trials]
    return ParallelCoordinatesInfo(dimensions, colors, first.quantity.title)


def _get_dimension(name: str, column: Sequence[Setting | None]) -> Dimension:
    numbers = [v for v in column if isinstance(v, int | float) and not isinstance(v, bool)]
    num_absent = column.count(None)
    if len(numbers) + num_absent < len(column):
        names = [format_setting(value) for value in column]
        texts = sorted(set(names))
        positions = [float(texts.index(name)) for name in names]
        return Dimension(name, positions, [float(i) for i in range(len(texts))], texts)
    is_log = min(numbers) > 0 and max(numbers) / min(numbers) >= LOG_RATIO
    if not is_log and not num_absent:
        return Dimension(name, [float(number) for number in numbers])
    scale: Callable[[float], float] = math.log10 if is_log else float
    low, high = scale(min(numbers)), scale(max(numbers))
    gap = (high - low) / 4
    ticks = [low + gap * i for i in range(5 if gap else 1)]
    texts = [format_number(10**tick if is_log else tick) for tick in ticks]
    if num_absent:  # trials without the setting get a tick below its numbers
        ticks, texts = [low - (gap or 1.0), *ticks], [format_setting(None), *texts]
    values = [scale(value) if isinstance(value, int | float) else ticks[0] for value in column]
    return Dimension(name, values, ticks, texts)
