"""Draws how the hypervolume grew over trials or over hours."""

from __future__ import annotations

from html import escape
from typing import Literal, NamedTuple

import plotly.graph_objects as go

from analysis.figures import theme
from analysis.pareto import relative_hypervolume
from analysis.results import Results, Run, Trial
from analysis.summary import Summary, measure_matrix

Over = Literal["trials", "hours"]


class RunHistory(NamedTuple):
    """The hypervolume of one run over time.

    Attributes:
        name: Name of the run.
        x: Number of ended trials (failed and stopped ones included) or hours, from the first
            measured network on.
        hypervolume: Dominated share of the box at each x, 0 to 1; it never falls.
    """

    name: str
    x: list[float]
    hypervolume: list[float]


class HypervolumeHistoryInfo(NamedTuple):
    """The content of the figure: one history for each run."""

    x_title: str
    histories: list[RunHistory]


def plot_hypervolume_history(results: Results, summary: Summary, over: Over) -> go.Figure:
    """Draw the hypervolume over the course of the search.

    Args:
        results: The runs.
        summary: Summary of the runs; its reference and ideal point are used for all of them.
        over: "trials" or "hours".

    Raises:
        FigureNotMadeError: No trial is complete, or no trial states its hours.
    """
    info = _get_hypervolume_history_info(results, summary, over)
    figure = go.Figure()
    for index, history in enumerate(info.histories):
        figure.add_scatter(
            x=history.x,
            y=history.hypervolume,
            name=escape(history.name),
            mode="lines+markers",
            line={
                "shape": "hv",
                "color": theme.SEQUENCE[index % len(theme.SEQUENCE)],
                "width": 2,
            },
            marker={"size": 5},
            showlegend=len(info.histories) > 1,
            hovertemplate="%{y:.4f} after %{x:.4~g}<extra></extra>",
        )
    figure.update_xaxes(theme.axis(info.x_title, rangemode="tozero"))
    figure.update_yaxes(theme.axis("Hypervolume (share of box)"))
    return theme.apply_theme(figure, height=340)


def _get_hypervolume_history_info(
    results: Results, summary: Summary, over: Over
) -> HypervolumeHistoryInfo:
    if not results.measured:
        raise theme.FigureNotMadeError("No network has been measured to the end yet.")
    histories = []
    for run in results.runs:
        ended = [trial for trial in run.trials if trial.state != "running"]
        if over == "hours":
            ended = [trial for trial in ended if trial.elapsed_hours is not None]
        ended.sort(key=_end_order)
        measured = {trial.number for trial in results.measured if trial.run == run.name}
        if any(trial.number in measured for trial in ended):
            histories.append(_get_history(results, summary, run, ended, over))
    if not histories:
        raise theme.FigureNotMadeError("trials.csv has no elapsed_hours.")
    title = "Ended trials" if over == "trials" else "Working time (h)"
    return HypervolumeHistoryInfo(title, histories)


def _get_history(
    results: Results, summary: Summary, run: Run, ended: list[Trial], over: Over
) -> RunHistory:
    measured = {trial.number for trial in results.measured if trial.run == run.name}
    so_far: list[Trial] = []
    x: list[float] = []
    shares: list[float] = []
    for count, trial in enumerate(ended, start=1):
        is_measured = trial.number in measured
        if is_measured:
            so_far.append(trial)
        if not so_far:
            continue
        x.append(float(count) if over == "trials" else trial.elapsed_hours or 0.0)
        if not is_measured:
            shares.append(shares[-1])
            continue
        share = relative_hypervolume(
            measure_matrix(so_far, results.objectives),
            summary.reference_point,
            results.directions,
            ideal_point=summary.ideal_point,
        )
        shares.append(share)
    return RunHistory(run.name, x, shares)


def _end_order(trial: Trial) -> tuple[float, str, int]:
    hours = trial.elapsed_hours
    return (float("inf") if hours is None else hours, trial.finished_at, trial.number)
