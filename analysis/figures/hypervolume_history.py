"""How the dominated share of the objective space grew, over trials or over hours."""

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
    """Growth of one run.

    Attributes:
        name: Name of the run.
        x: Ended trials (counting failed and stopped ones) or hours, from the first
            measured network on.
        hypervolume: Share of the box dominated by then, 0 to 1; never falls.
    """

    name: str
    x: list[float]
    hypervolume: list[float]


class HypervolumeHistoryInfo(NamedTuple):
    """What the figure shows: one history for each run."""

    x_title: str
    histories: list[RunHistory]


def plot_hypervolume_history(results: Results, summary: Summary, over: Over) -> go.Figure:
    """Draw the hypervolume as the search went on.

    Args:
        results: The runs.
        summary: Their summary; its reference and ideal point are used for all runs.
        over: "trials" or "hours".

    Raises:
        FigureNotMadeError: If no trial was measured to the end, or no trial states its hours.
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
        raise theme.FigureNotMadeError("trials.csv states no elapsed_hours.")
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
