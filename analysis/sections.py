"""The sections of the report, each rendered to HTML from the results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from html import escape
from pathlib import Path

import plotly.graph_objects as go

from analysis import figures, page
from analysis.figures.theme import FigureNotMadeError
from analysis.front_table import DERIVED, get_front_table_info
from analysis.problems import get_problems_info
from analysis.published import CITATION, CONDITIONS, DOI
from analysis.results import Results
from analysis.run_description import describe_data, describe_facts, describe_latency
from analysis.summary import Summary

COLUMN_HINTS = {
    "num_retrainings": (
        "Retrained: fine-tuned again from the same pruned network with other seeds (order of the "
        "data, augmentation, dropout). The deviation is therefore the noise of the fine-tuning "
        "alone, without the stages before it. P(non-dominated): the probability that no other "
        "retrained member is at once as accurate, by its expected mIoU, and as cheap. The search's "
        "own mIoU is left out, because the front was selected by it."
    ),
    "speedup_realised_share": (
        "Speed-up over the dense network: by measured latency, and by MACs, as if each MAC took "
        "the same time."
    ),
}
_ALT_3D = "All three objectives at once; the table of the front has the numbers."
_NAVIGATION = (
    '<nav aria-label="Sections"><a href="#choose">Choose</a><a href="#front">Front</a>'
    '<a href="#pictures">Pictures</a><a href="#classes">Classes</a><a href="#networks">Networks</a>'
    '<a href="#chain">Chain</a><a href="#progress">Progress</a><a href="#settings">Settings</a>'
    '<a href="#problems">Problems</a><a href="#conditions">Conditions</a></nav>'
)
SHORT_NAMES = {"latency_ms": "latency", "num_params": "params"}


def describe_recipes(results: Results) -> str:
    """Return the names of the recipes that were run."""
    return ", ".join(dict.fromkeys(run.recipe for run in results.runs))


def render_header(results: Results, summary: Summary) -> str:
    """Return the title, the result in one sentence, and the main numbers."""
    runs = ", ".join(run.name for run in results.runs)
    states = summary.num_by_state
    others = [f"{n} {state}" for state, n in states.items() if state != "complete"]
    first = results.objectives[0]
    best = summary.front[0].measures[first.name] if summary.front else None
    best_label = results.label(summary.front[0]) if summary.front else ""
    problems = get_problems_info(results)
    tiles = [
        page.Tile("On the front", str(len(summary.front)), f"of {len(results.measured)} measured"),
        page.Tile(
            f"Best {first.quantity.label}",
            "–" if best is None else first.quantity.text(best),
            f"trial {best_label}" if best_label else "",
        ),
        page.Tile("Hypervolume", f"{summary.hypervolume:.3f}", "share of box, 0 to 1"),
        page.Tile(
            "Trials",
            str(len(results.trials)),
            ", ".join(others) or ("all complete" if results.trials else "none yet"),
            "#problems" if others else "",
        ),
        page.Tile(
            "Problems",
            str(len(problems.warnings) + problems.num_failed),
            f"{len(problems.warnings)} warnings, {problems.num_failed} failed trials",
            "#problems",
        ),
    ]
    facts = {
        "Data": describe_data(results.runs[0]),
        "Latency": describe_latency(results.runs[0]),
    }
    return "\n".join(
        [
            f"<header><h1>{escape(describe_recipes(results))} · {escape(runs)}</h1>",
            f'<p class="lead">{escape(summary.sentence)}</p>',
            page.render_tiles(tiles),
            page.render_facts({name: text for name, text in facts.items() if text}),
            "</header>",
            _NAVIGATION,
            page.render_notes(summary.notes),
        ]
    )


def render_fronts(results: Results, summary: Summary) -> str:
    """Return the figures of the front."""
    first, *costs = results.objectives
    parts = ['<section id="front"><h2>Pareto front</h2>']
    parts.append(
        '<p class="hint">The line is the edge of the region that the front dominates. Hover over a '
        "mark for its settings, drag to zoom, double-click to zoom out. Click a legend entry to "
        f"show or hide it. “Published” are the paper's own numbers ({escape(CONDITIONS)}), for "
        "reference only. "
        + (
            f"“Front ({len(costs) + 1}-D)” are on the front because of an objective not shown.</p>"
            if len(costs) > 1
            else "</p>"
        )
    )
    panels = [
        f"<div><h3>{escape(first.label)} against {escape(cost.label.lower())}</h3>"
        + _figure(
            f"front-{short_name(cost.name)}",
            partial(figures.plot_front_2d, results, summary, cost.name, first.name),
            f"{first.label} against {cost.label.lower()} of every measured network; the table "
            "of the front has the numbers.",
        )
        + "</div>"
        for cost in costs[:2]
    ]
    if panels:
        parts.append(f'<div class="pair">{"".join(panels)}</div>')
    else:
        parts.append(page.render_absent("The run has only one objective, so there is no front."))
    if len(results.objectives) >= 3:
        parts.append("<h2>All three objectives</h2><p class='hint'>Drag to turn.</p>")
        parts.append(_figure("front-3d", lambda: figures.plot_front_3d(results, summary), _ALT_3D))
    return "\n".join([*parts, "</section>"])


def render_front_members(results: Results, summary: Summary, folder: Path) -> str:
    """Return the table of the front, with links relative to `folder`."""
    info = get_front_table_info(results, summary, folder)
    parts = ['<section id="networks"><h2>Networks on the front</h2>']
    if not info.rows:
        return "\n".join([*parts, page.render_absent(summary.sentence), "</section>"])
    parts.append(
        '<p class="hint">Click a column to sort. '
        'Full numbers: <a href="front.csv">front.csv</a>.</p>'
    )
    parts.append(page.render_front_table(info))
    parts += [
        f'<p class="hint" style="margin-top:10px">{hint}</p>'
        for measure, hint in COLUMN_HINTS.items()
        if DERIVED[measure].title in info.columns
    ]
    if info.constants:
        shared = escape(", ".join(info.constants))
        parts.append(f'<p class="hint" style="margin-top:10px">Same in all trials: {shared}.</p>')
    return "\n".join([*parts, "</section>"])


def render_progress(results: Results, summary: Summary) -> str:
    """Return the growth of the hypervolume."""
    reference = ", ".join(
        f"{o.quantity.label} {o.quantity.text(value)}"
        for o, value in zip(results.objectives, summary.reference_point, strict=True)
    )
    ideal = ", ".join(
        o.quantity.text(value)
        for o, value in zip(results.objectives, summary.ideal_point, strict=True)
    )
    trials = _figure(
        "hypervolume-trials",
        lambda: figures.plot_hypervolume_history(results, summary, "trials"),
        f"Hypervolume over ended trials, {summary.hypervolume:.3f} at the end.",
    )
    hours = _figure(
        "hypervolume-hours",
        lambda: figures.plot_hypervolume_history(results, summary, "hours"),
        f"Hypervolume over working hours, {summary.hypervolume:.3f} at the end.",
    )
    return (
        '<section id="progress"><h2>Hypervolume</h2>'
        '<p class="hint">Share of the box between the reference point '
        f"({escape(reference)}) and the ideal point ({escape(ideal)}) that the front dominates.</p>"
        f'<div class="pair"><div><h3>Over trials</h3>{trials}</div>'
        f"<div><h3>Over hours</h3>{hours}</div></div></section>"
    )


def render_settings(results: Results, summary: Summary) -> str:
    """Return parallel coordinates and the importance of the settings."""
    width = 160 + 120 * (len(results.varied_settings) + len(results.objectives))
    parallel = _figure(
        "parallel",
        lambda: figures.plot_parallel_coordinates(results, summary),
        "Settings and objectives of every measured network; trials.csv has the numbers.",
        min_width=width,
    )
    importance = _figure(
        "importance",
        lambda: figures.plot_importance(results),
        "How much each setting mattered for each objective.",
        min_width=760,
    )
    return (
        '<section id="settings"><h2>Settings and outcomes</h2>'
        '<p class="hint">One line per measured network. Drag along an axis to select, drag a title '
        f"to move the axis.</p>{parallel}"
        "<h2>Which settings mattered</h2>"
        '<p class="hint">PED-ANOVA importance for reaching the best quarter of each objective.</p>'
        f"{importance}</section>"
    )


def render_conditions(results: Results, summary: Summary) -> str:
    """Return the data, machine and versions of each run, and the sources."""
    parts = ['<section id="conditions"><h2>How it was measured</h2>']
    for run in results.runs:
        if len(results.runs) > 1:
            parts.append(f"<h3>{escape(run.name)}</h3>")
        parts.append(page.render_facts(describe_facts(run)))
    parts.append(
        f'</section><footer>Reference marks: {escape(CITATION)}, <a href="https://doi.org/'
        f'{DOI}">doi:{DOI}</a>. Measured on {escape(CONDITIONS)}; never ranked together '
        "with the networks of this report.</footer>"
    )
    return "\n".join(parts)


def _figure(name: str, draw: Callable[[], go.Figure], alt: str, *, min_width: int = 0) -> str:
    try:
        return page.render_figure(name, draw(), alt=alt, min_width=min_width)
    except FigureNotMadeError as reason:
        return page.render_absent(str(reason))


def short_name(name: str) -> str:
    """Return a name for files and element ids."""
    return SHORT_NAMES.get(name, "".join(c if c.isalnum() else "_" for c in name))
