"""Draws a line from each network to the networks that were made from it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import plotly.graph_objects as go

from analysis.figures import theme
from analysis.figures.hover import describe_baseline, describe_trial
from analysis.lineage import get_ancestors
from analysis.results import Objective, Results, Trial
from analysis.summary import Summary

Point = tuple[float, float]


class LineageInfo(NamedTuple):
    """The content of the figure, in shown units.

    Attributes:
        x_title: Title of the horizontal axis.
        y_title: Title of the vertical axis.
        roots: Positions and hover texts of the uncompressed networks.
        points: Positions of the trials that are shown.
        texts: Hover texts of these trials.
        on_front: For each of these trials, whether it is on the front.
        starts: Lines from the uncompressed network to networks that continue no other.
        continuations: Lines from a network to a network that was pruned further from it.
    """

    x_title: str
    y_title: str
    roots: list[tuple[Point, str]]
    points: list[Point]
    texts: list[str]
    on_front: list[bool]
    starts: list[tuple[Point, Point]]
    continuations: list[tuple[Point, Point]]


def plot_lineage(results: Results, summary: Summary, x: str, y: str = "miou") -> go.Figure:
    """Draw the members of the front, the networks that they continue, and lines between them.

    Raises:
        FigureNotMadeError: No trial is complete, or the runs do not have an objective.
    """
    info = _get_lineage_info(results, summary, x, y)
    figure = go.Figure()
    _add_lines(figure, info.starts, "From the uncompressed network", theme.DOMINATED, "dot")
    _add_lines(figure, info.continuations, "Continues", theme.FRONT, "solid")
    for name, color, wanted in (
        ("Front", theme.FRONT, True),
        ("Dominated since", theme.OTHER_FRONT, False),
    ):
        chosen = [index for index, member in enumerate(info.on_front) if member == wanted]
        if chosen:
            figure.add_scatter(
                x=[info.points[index][0] for index in chosen],
                y=[info.points[index][1] for index in chosen],
                hovertext=[info.texts[index] for index in chosen],
                hoverinfo="text",
                mode="markers",
                name=name,
                marker={"color": color, "size": 10},
            )
    if info.roots:
        figure.add_scatter(
            x=[point[0] for point, _ in info.roots],
            y=[point[1] for point, _ in info.roots],
            hovertext=[text for _, text in info.roots],
            hoverinfo="text",
            mode="markers",
            name="Uncompressed",
            marker={"color": theme.BASELINES[1], "size": 12, "symbol": "square"},
        )
    figure.update_xaxes(theme.axis(info.x_title))
    figure.update_yaxes(theme.axis(info.y_title))
    return theme.apply_theme(figure)


def _get_lineage_info(results: Results, summary: Summary, x: str, y: str) -> LineageInfo:
    pair = results.find_objective(x), results.find_objective(y)
    if pair[0] is None or pair[1] is None:
        raise theme.FigureNotMadeError(f"The run has no objective {x if pair[0] is None else y}.")
    if not summary.front:
        raise theme.FigureNotMadeError("No network has been measured to the end yet.")
    axes: tuple[Objective, Objective] = (pair[0], pair[1])

    def locate(values: Mapping[str, float]) -> Point | None:
        if not all(objective.name in values for objective in axes):
            return None
        first, second = (o.quantity.shown(values[o.name]) for o in axes)
        return first, second

    shown: dict[tuple[str, int], Trial] = {}
    for member in summary.front:
        for trial in (member, *get_ancestors(results, member)):
            shown.setdefault((trial.run, trial.number), trial)
    front = {(trial.run, trial.number) for trial in summary.front}
    roots = {
        (run.name, student.name): (position, describe_baseline(results, student))
        for run in results.runs
        for student in run.students
        if (position := locate(student.values)) is not None
    }
    located = {
        key: point for key, trial in shown.items() if (point := locate(trial.measures)) is not None
    }
    starts, continuations = [], []
    for key, point in located.items():
        ancestors = get_ancestors(results, shown[key])
        nearest = next((p for t in ancestors if (p := located.get((t.run, t.number)))), None)
        if nearest is not None:
            continuations.append((nearest, point))
        elif (student := results.find_student(shown[key])) and (key[0], student.name) in roots:
            starts.append((roots[key[0], student.name][0], point))
    return LineageInfo(
        x_title=axes[0].quantity.title,
        y_title=axes[1].quantity.title,
        roots=list(roots.values()),
        points=list(located.values()),
        texts=[describe_trial(results, shown[key]) for key in located],
        on_front=[key in front for key in located],
        starts=starts,
        continuations=continuations,
    )


def _add_lines(
    figure: go.Figure, lines: list[tuple[Point, Point]], name: str, color: str, dash: str
) -> None:
    if not lines:
        return
    ends = [end for start, stop in lines for end in (start, stop, None)]
    figure.add_scatter(
        x=[None if end is None else end[0] for end in ends],
        y=[None if end is None else end[1] for end in ends],
        mode="lines",
        name=name,
        line={"color": color, "width": 1.6, "dash": dash},
        hoverinfo="skip",
    )
