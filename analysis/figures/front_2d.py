"""Draws two objectives against each other, with the attainment line through the front."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import NamedTuple

import plotly.graph_objects as go

from analysis.figures import theme
from analysis.figures.hover import describe_baseline, describe_trial
from analysis.pareto import non_dominated_mask
from analysis.published import CONDITIONS, PUBLISHED
from analysis.results import Objective, Results, Trial
from analysis.summary import Summary, measure_matrix

MAX_STRETCH = 1.6
PUBLISHED_DATASET = "cityscapes"


class Marks(NamedTuple):
    """Marks of one kind, in shown units.

    Attributes:
        name: Legend entry.
        x: Position of every mark.
        y: Position of every mark.
        texts: Hover text of every mark, escaped.
        visible: False if the marks are hidden until the reader turns them on.
    """

    name: str
    x: list[float]
    y: list[float]
    texts: list[str]
    visible: bool = True


class Front2DInfo(NamedTuple):
    """The content of the figure of two objectives.

    Attributes:
        x_title: Title of the horizontal axis, with its unit.
        y_title: Title of the vertical axis, with its unit.
        x_log: Whether the horizontal axis is logarithmic.
        line_shape: Plotly's shape of the line through the front, "hv" or "vh".
        front: Trials that are non-dominated in these two objectives, from left to right.
        other_front: Trials that are on the front only because of an objective that is not shown.
        dominated: All other measured trials.
        baselines: Marks of each baseline.
        published: Points from papers; empty if they do not have both objectives.
    """

    x_title: str
    y_title: str
    x_log: bool
    line_shape: str
    front: Marks
    other_front: Marks
    dominated: Marks
    baselines: list[Marks]
    published: Marks


def plot_front_2d(results: Results, summary: Summary, x: str, y: str = "miou") -> go.Figure:
    """Draw two objectives against each other.

    Args:
        results: The runs.
        summary: Their summary.
        x: Name of the objective on the horizontal axis.
        y: Name of the objective on the vertical axis.

    Raises:
        FigureNotMadeError: No trial is complete, or the runs do not have an objective.
    """
    info = _get_front_2d_info(results, summary, x, y)
    figure = go.Figure()
    _add_marks(figure, info.published, color=theme.PAPER, size=9, symbol="circle-open", rank=5)
    _add_marks(figure, info.dominated, color=theme.DOMINATED, size=8, rank=3)
    _add_marks(figure, info.other_front, color=theme.OTHER_FRONT, size=9, rank=2)
    _add_marks(figure, info.front, color=theme.FRONT, size=10, rank=1, shape=info.line_shape)
    for index, marks in enumerate(info.baselines):
        color = theme.BASELINES[index % len(theme.BASELINES)]
        symbol = theme.BASELINE_SYMBOLS[index % len(theme.BASELINE_SYMBOLS)]
        _add_marks(figure, marks, color=color, size=11, symbol=symbol, rank=4)
    figure.update_xaxes((theme.log_axis if info.x_log else theme.axis)(info.x_title))
    figure.update_yaxes(theme.axis(info.y_title))
    return theme.apply_theme(figure)


def _get_front_2d_info(results: Results, summary: Summary, x: str, y: str) -> Front2DInfo:
    horizontal, vertical = results.find_objective(x), results.find_objective(y)
    if horizontal is None or vertical is None:
        raise theme.FigureNotMadeError(
            f"The run has no objective {x if horizontal is None else y}."
        )
    pair = (horizontal, vertical)
    trials = [*summary.front, *summary.dominated]
    if not trials:
        raise theme.FigureNotMadeError("No network has been measured to the end yet.")
    mask = non_dominated_mask(measure_matrix(trials, pair), [o.direction for o in pair])
    front = [trial for trial, on_front in zip(trials, mask, strict=True) if on_front]
    front.sort(key=lambda trial: trial.measures[x])
    rest = [trial for trial, on_front in zip(trials, mask, strict=True) if not on_front]
    other = [trial for trial in rest if trial in summary.front]
    dominated = [trial for trial in rest if trial not in summary.front]
    own = [
        _trial_marks("Front", front, results, pair),
        _trial_marks(f"Front ({len(results.objectives)}-D)", other, results, pair),
        _trial_marks("Dominated", dominated, results, pair),
    ]
    baselines = _baseline_marks(results, pair)
    return Front2DInfo(
        x_title=horizontal.quantity.title,
        y_title=vertical.quantity.title,
        x_log=theme.needs_log([x for marks in [*own, *baselines] for x in marks.x]),
        line_shape="vh" if horizontal.maximize else "hv",
        front=own[0],
        other_front=own[1],
        dominated=own[2],
        baselines=baselines,
        published=_published_marks(results, pair, [*own, *baselines]),
    )


def _trial_marks(
    name: str, trials: Sequence[Trial], results: Results, pair: tuple[Objective, Objective]
) -> Marks:
    x, y = ([o.quantity.shown(trial.measures[o.name]) for trial in trials] for o in pair)
    return Marks(name, x, y, [describe_trial(results, trial) for trial in trials])


def _baseline_marks(results: Results, pair: tuple[Objective, Objective]) -> list[Marks]:
    return [
        Marks(
            escape(baseline.title),
            [pair[0].quantity.shown(baseline.values[pair[0].name])],
            [pair[1].quantity.shown(baseline.values[pair[1].name])],
            [describe_baseline(results, baseline)],
        )
        for baseline in results.baselines
        if all(objective.name in baseline.values for objective in pair)
    ]


def _published_marks(
    results: Results, pair: tuple[Objective, Objective], own: Sequence[Marks]
) -> Marks:
    """Return the papers' points, hidden if they are of other data or would squash our points."""
    points = [point for point in PUBLISHED if all(o.name in point.values for o in pair)]
    if not points:
        return Marks("Published", [], [], [])
    x, y = ([o.quantity.shown(point.values[o.name]) for point in points] for o in pair)
    texts = [
        f"<b>{escape(point.name)}</b><br>"
        + "<br>".join(f"{escape(o.label)}  {o.quantity.text(point.values[o.name])}" for o in pair)
        + f"<br>as published: {CONDITIONS}"
        for point in points
    ]
    squash = _stretches([v for marks in own for v in marks.x], x) or _stretches(
        [v for marks in own for v in marks.y], y
    )
    dataset = (results.runs[0].metadata.get("dataset") or {}).get("name")
    visible = dataset == PUBLISHED_DATASET and not squash
    return Marks("Published", x, y, texts, visible=visible)


def _stretches(own: Sequence[float], other: Sequence[float]) -> bool:
    """Whether an axis that also shows the other values would squash our own."""
    span = max(own) - min(own)
    return max(*own, *other) - min(*own, *other) > MAX_STRETCH * span


def _add_marks(
    figure: go.Figure,
    marks: Marks,
    *,
    color: str,
    size: int,
    rank: int,
    symbol: str = "circle",
    shape: str | None = None,
) -> None:
    if not marks.x:
        return
    figure.add_scatter(
        x=marks.x,
        y=marks.y,
        name=marks.name,
        mode="markers" if shape is None else "lines+markers",
        line={"shape": shape or "linear", "color": color, "width": 2},
        marker={
            "color": color,
            "size": size,
            "symbol": symbol,
            "line": {"color": "white" if "open" not in symbol else color, "width": 1.2},
        },
        hovertext=marks.texts,
        hoverinfo="text",
        legendrank=rank,
        visible=True if marks.visible else "legendonly",
    )
