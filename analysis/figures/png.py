"""PNG copies of the main figures, drawn by matplotlib because it needs no browser."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

from analysis.figures import theme
from analysis.figures.front_2d import Marks, _get_front_2d_info
from analysis.figures.hypervolume_history import Over, _get_hypervolume_history_info
from analysis.results import Results
from analysis.summary import Summary

STEPS = {"hv": "steps-post", "vh": "steps-pre"}
SYMBOLS = ("D", "s", "^", "P")


def write_front_png(
    path: Path, results: Results, summary: Summary, *, x: str, y: str = "miou", title: str = ""
) -> None:
    """Draw two objectives against each other into a PNG file of 1600 x 1040 pixels.

    Raises:
        FigureNotMadeError: No trial is complete, or the runs do not have an objective.
    """
    info = _get_front_2d_info(results, summary, x, y)
    figure, axes = _start(info.x_title, info.y_title, title)
    axes.plot(
        info.front.x,
        info.front.y,
        drawstyle=STEPS[info.line_shape],
        color=theme.FRONT,
        linewidth=1.8,
        zorder=2,
    )
    _scatter(axes, info.front, color=theme.FRONT, size=60)
    _scatter(axes, info.other_front, color=theme.OTHER_FRONT, size=46)
    _scatter(axes, info.dominated, color=theme.DOMINATED, size=38, layer=1)
    for index, marks in enumerate(info.baselines):
        color = theme.BASELINES[index % len(theme.BASELINES)]
        _scatter(axes, marks, color=color, size=70, symbol=SYMBOLS[index % len(SYMBOLS)])
    if info.published.visible:
        _scatter(axes, info.published, color="none", edge=theme.PAPER, size=48, layer=1)
    if info.x_log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_locator(NullLocator())
    _finish(figure, axes, path)


def write_hypervolume_png(
    path: Path, results: Results, summary: Summary, *, over: Over = "trials", title: str = ""
) -> None:
    """Draw the growth of the hypervolume into a PNG file of 1600 x 1040 pixels.

    Raises:
        FigureNotMadeError: No trial is complete, or no trial states its hours.
    """
    info = _get_hypervolume_history_info(results, summary, over)
    figure, axes = _start(info.x_title, "Hypervolume (share of box)", title)
    for index, history in enumerate(info.histories):
        axes.plot(
            history.x,
            history.hypervolume,
            drawstyle="steps-post",
            color=theme.SEQUENCE[index % len(theme.SEQUENCE)],
            linewidth=1.8,
            label=_plain(history.name) if len(info.histories) > 1 else None,
        )
    axes.set_xlim(left=0)
    _finish(figure, axes, path)


def _start(x_title: str, y_title: str, title: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 5.2), dpi=200, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(_plain(x_title), color=theme.MUTED, fontsize=11)
    axes.set_ylabel(_plain(y_title), color=theme.MUTED, fontsize=11)
    axes.set_title(_plain(title), loc="left", color=theme.INK, fontsize=12, pad=12)
    axes.grid(color=theme.GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#b4bec8")
    axes.tick_params(color="#b4bec8", labelcolor=theme.MUTED, labelsize=10)
    return figure, axes


def _scatter(
    axes: Axes,
    marks: Marks,
    *,
    color: str,
    size: float,
    edge: str = "white",
    symbol: str = "o",
    layer: int = 3,
) -> None:
    if marks.x:
        axes.scatter(
            marks.x,
            marks.y,
            s=size,
            c=color,
            marker=symbol,
            edgecolors=edge,
            linewidths=1.0,
            label=_plain(marks.name),
            zorder=layer,
        )


def _finish(figure: Figure, axes: Axes, path: Path) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower left",
            ncols=min(len(labels), 6),
            frameon=False,
            fontsize=9.5,
            handletextpad=0.4,
            columnspacing=1.4,
            labelcolor=theme.INK,
        )
    figure.savefig(path)


def _plain(text: str) -> str:
    """Escape $, which matplotlib reads as maths, and remove a leading _, which hides a label."""
    return text.replace("$", r"\$").removeprefix("_")
