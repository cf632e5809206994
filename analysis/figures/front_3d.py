"""Draws three objectives in a space that the reader can turn."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import NamedTuple

import plotly.graph_objects as go

from analysis.figures import theme
from analysis.figures.hover import describe_baseline, describe_trial
from analysis.results import Objective, Results
from analysis.summary import Summary


class Cloud(NamedTuple):
    """Marks of one kind in space, in shown units; `points` has the (x, y, z) of each."""

    name: str
    points: list[tuple[float, float, float]]
    texts: list[str]


class Front3DInfo(NamedTuple):
    """The content of the figure of three objectives.

    Attributes:
        titles: Titles of the x, y and z axes, with their units; z is the first objective.
        logs: For each axis, whether it is logarithmic.
        front: Non-dominated trials.
        dominated: The other measured trials.
        baselines: Marks of each baseline that has all three objectives.
    """

    titles: tuple[str, str, str]
    logs: tuple[bool, bool, bool]
    front: Cloud
    dominated: Cloud
    baselines: list[Cloud]


def plot_front_3d(results: Results, summary: Summary) -> go.Figure:
    """Draw the first three objectives in space.

    Raises:
        FigureNotMadeError: There are fewer than three objectives, or no trial is complete.
    """
    info = _get_front_3d_info(results, summary)
    figure = go.Figure()
    _add_cloud(figure, info.dominated, color=theme.DOMINATED, size=4, symbol="circle", rank=2)
    _add_stems(figure, info)
    _add_cloud(figure, info.front, color=theme.FRONT, size=6, symbol="circle", rank=1)
    for index, cloud in enumerate(info.baselines):
        color = theme.BASELINES[index % len(theme.BASELINES)]
        symbol = ("diamond", "square", "cross")[index % 3]
        _add_cloud(figure, cloud, color=color, size=6, symbol=symbol, rank=3)
    theme.apply_theme(figure, height=500)
    axes = {
        name: {
            "title": {"text": title, "font": {"size": 12, "color": theme.MUTED}},
            "gridcolor": theme.GRID,
            "showbackground": False,
            "showspikes": False,
            "linecolor": theme.LINE,
            "tickfont": {"size": 10, "color": theme.MUTED},
            "nticks": 5,
            **({"type": "log", "dtick": "D2", "tickformat": "~g"} if log else {}),
        }
        for name, title, log in zip(
            ("xaxis", "yaxis", "zaxis"), info.titles, info.logs, strict=True
        )
    }
    camera = {"eye": {"x": 1.5, "y": 1.5, "z": 0.75}, "center": {"x": 0, "y": 0, "z": -0.14}}
    ratio = {"x": 1.15, "y": 1.15, "z": 0.85}
    figure.update_layout(
        scene={**axes, "camera": camera, "aspectmode": "manual", "aspectratio": ratio}
    )
    return figure


def _get_front_3d_info(results: Results, summary: Summary) -> Front3DInfo:
    if len(results.objectives) < 3:
        raise theme.FigureNotMadeError("The run has fewer than three objectives.")
    if not results.measured:
        raise theme.FigureNotMadeError("No network has been measured to the end yet.")
    z, x, y = results.objectives[:3]
    axes = (x, y, z)
    clouds = [
        Cloud(
            name,
            [_position(trial.measures, axes) for trial in trials],
            [describe_trial(results, trial) for trial in trials],
        )
        for name, trials in (("Front", summary.front), ("Dominated", summary.dominated))
    ]
    baselines = [
        Cloud(
            escape(baseline.title),
            [_position(baseline.values, axes)],
            [describe_baseline(results, baseline)],
        )
        for baseline in results.baselines
        if all(objective.name in baseline.values for objective in axes)
    ]
    titles = (x.quantity.title, y.quantity.title, z.quantity.title)
    points = [point for cloud in (*clouds, *baselines) for point in cloud.points]
    x_log, y_log, _ = (theme.needs_log([point[i] for point in points]) for i in range(3))
    return Front3DInfo(titles, (x_log, y_log, False), clouds[0], clouds[1], baselines)


def _position(
    values: Mapping[str, float], axes: tuple[Objective, Objective, Objective]
) -> tuple[float, float, float]:
    x, y, z = (objective.quantity.shown(values[objective.name]) for objective in axes)
    return x, y, z


def _add_cloud(
    figure: go.Figure, cloud: Cloud, *, color: str, size: int, symbol: str, rank: int
) -> None:
    if not cloud.points:
        return
    x, y, z = ([point[i] for point in cloud.points] for i in range(3))
    figure.add_scatter3d(
        x=x,
        y=y,
        z=z,
        name=cloud.name,
        mode="markers",
        legendrank=rank,
        marker={"color": color, "size": size, "symbol": symbol},
        hovertext=cloud.texts,
        hoverinfo="text",
    )


def _add_stems(figure: go.Figure, info: Front3DInfo) -> None:
    """Draw a thin line from each member of the front to the floor, which shows its position."""
    clouds = (info.front, info.dominated, *info.baselines)
    floor = min(point[2] for cloud in clouds for point in cloud.points)
    ends = [end for x, y, z in info.front.points for end in ((x, y, z), (x, y, floor), None)]
    x, y, z = ([None if end is None else end[i] for end in ends] for i in range(3))
    line = {"color": theme.OTHER_FRONT, "width": 2}
    figure.add_scatter3d(x=x, y=y, z=z, mode="lines", line=line, hoverinfo="skip", showlegend=False)
