"""Report sections that answer questions: which network to take, what it costs, what went wrong."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from urllib.parse import quote

from analysis import figures, page
from analysis.choosing import get_chooser_data
from analysis.class_iou import get_class_iou_info
from analysis.figures.theme import FigureNotMadeError
from analysis.heat_map import render_heat_map
from analysis.lineage import Node, build_tree
from analysis.picture_section import get_picture_folder
from analysis.problems import get_problems_info, list_labels
from analysis.quantities import format_number, get_quantity
from analysis.results import Results
from analysis.summary import Summary

MIOU = get_quantity("miou", "mIoU")


def render_chooser(results: Results) -> str:
    """Return the sliders that find the best network for a budget."""
    data = get_chooser_data(results)
    parts = ['<section id="choose"><h2>Choose by budget</h2>']
    if not data["networks"] or not data["budgets"]:
        parts.append(page.render_absent("No measured network has both mIoU and costs."))
        return "\n".join([*parts, "</section>"])
    data["pictures"] = _find_pictures(results)
    sliders = "".join(
        f'<div class="budget"><label for="budget-{index}">{escape(budget["label"])} at most</label>'
        f'<input type="range" id="slide-{index}" data-budget="{index}" min="{budget["least"]:.6g}" '
        f'max="{budget["most"]:.6g}" step="any" value="{budget["most"]:.6g}" '
        f'aria-label="{escape(budget["label"])} at most ({escape(budget["unit"])})">'
        f'<span><input type="number" id="budget-{index}" data-budget="{index}" min="0" step="any" '
        f'placeholder="any"> {escape(budget["unit"])}</span></div>'
        for index, budget in enumerate(data["budgets"])
    )
    best = data["networks"][0]
    least = ", ".join(
        f"{budget['label'].lower()} {format_number(budget['least'])} {budget['unit']}"
        for budget in data["budgets"]
    )
    numbers = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(text)}</dd></div>"
        for label, text in best["texts"]
    )
    parts.append(
        '<p class="hint">Move the sliders or type a budget. The network shown is the one with the '
        "highest validation mIoU within it.</p>"
        f'<form id="chooser" onsubmit="return false">{sliders}</form>'
        '<div id="chosen" aria-live="polite"><p data-none hidden>No network is within this budget. '
        f"The smallest found: {escape(least)}.</p><div data-some><div>"
        f"<h3 data-label>Trial {escape(best['label'])}</h3>"
        f'<dl class="tiles">{numbers}</dl></div><img alt="" loading="lazy" hidden>'
        f'<div class="command"><code id="export-command">{escape(best["command"])}</code>'
        '<button type="button" data-copy="#export-command">Copy</button></div></div></div>'
    )
    return "\n".join([*parts, page.render_data("chooser-data", data), "</section>"])


def render_class_iou(results: Results, summary: Summary) -> str:
    """Return the heat map of IoU by class."""
    info = get_class_iou_info(results, summary)
    heading = '<section id="classes"><h2>IoU by class</h2>'
    if not info.classes or not info.networks:
        absent = page.render_absent("trials.csv has no IoU of single classes.")
        return f"{heading}{absent}</section>"
    if info.references:
        hint = (
            "IoU of each class on the validation split. The uncompressed network's is in percent; "
            "each member of the front shows its difference in points, gains blue and losses red."
        )
    else:
        hint = "IoU of each class on the validation split, in percent."
    return f'{heading}<p class="hint">{hint}</p>{render_heat_map(info)}</section>'


def render_held_out(results: Results, summary: Summary) -> str:
    """Return validation and test mIoU side by side; "" without a test split."""
    rows = []
    for run in results.runs:
        prefix = f"{run.name}/" if len(results.runs) > 1 else ""
        known = [
            (baseline.name, f"{prefix}{baseline.name}", baseline.values.get("miou"))
            for baseline in run.baselines
        ]
        known += [
            (f"trial-{trial.number}", f"trial {results.label(trial)}", trial.measures.get("miou"))
            for trial in summary.front
            if trial.run == run.name
        ]
        for key, label, before in known:
            score = run.held_out.get(key)
            if score is not None:
                change = "–" if before is None else f"{100 * (score.miou - before):+.1f}"
                value = "–" if before is None else MIOU.digits(before)
                rows.append([label, value, MIOU.digits(score.miou), change])
    if not rows:
        return ""
    table = page.render_text_table(
        ["Network", "mIoU on val (%)", "mIoU on test (%)", "Difference (points)"], rows
    )
    return (
        '<section id="test"><h2>Validation and test</h2><p class="hint">The front was selected on '
        "the validation split, so its members' mIoU there is optimistic. The test split was used "
        f"once, at the end.</p>{table}</section>"
    )


def render_lineage(results: Results, summary: Summary) -> str:
    """Return which network was made from which, as a figure and as a nested list."""
    parts = ['<section id="chain"><h2>Which network was made from which</h2>']
    accuracy = next((o for o in results.objectives if o.maximize), results.objectives[0])
    costs = [o.name for o in results.objectives if not o.maximize and o != accuracy]
    try:
        figure = figures.plot_lineage(
            results, summary, costs[0] if costs else "latency_ms", accuracy.name
        )
    except FigureNotMadeError as reason:
        return "\n".join([*parts, page.render_absent(str(reason)), "</section>"])
    parts.append(
        '<p class="hint">A solid line leads from a network to the one that was pruned further from '
        "it. A dotted line leads from the uncompressed network to the start of a chain.</p>"
    )
    alt = "Lines over mIoU and cost from each network to the one made from it; the list below has"
    parts.append(page.render_figure("lineage", figure, alt=f"{alt} the same in words."))
    tree = _render_nodes(build_tree(results, summary.front))
    parts.append(
        f"<details><summary>The same as a list, with the shared stages</summary>{tree}</details>"
    )
    return "\n".join([*parts, "</section>"])


def render_problems(results: Results) -> str:
    """Return the warnings, and the failed and stopped trials by reason."""
    info = get_problems_info(results)
    parts = ['<section id="problems"><h2>Problems and early ends</h2>']
    if not info.warnings and not info.ended_early:
        return f'{parts[0]}<p class="hint">None.</p></section>'
    parts.append("<h3>Warnings</h3>")
    parts.append(page.render_notes(info.warnings) or '<p class="hint">None.</p>')
    parts.append("<h3>Failed and stopped trials</h3>")
    rows = [
        [entry.state, str(len(entry.trials)), list_labels(entry.trials), entry.last_stage or "–",
         entry.reason or "–"]
        for entry in info.ended_early
    ]  # fmt: skip
    columns = ["State", "Number", "Trials", "Last stage done", "Reason"]
    parts.append(page.render_text_table(columns, rows) if rows else '<p class="hint">None.</p>')
    return "\n".join([*parts, "</section>"])


def _find_pictures(results: Results) -> dict[str, str]:
    """Return the address of each network's prediction for the first image, by run and key."""
    return {
        f"{run.name}/{key}": quote(f"{get_picture_folder(run)}/{file}")
        for run in results.runs
        if run.pictures is not None and run.pictures.images
        for key, file in run.pictures.images[0].predictions.items()
    }


def _render_nodes(nodes: Sequence[Node]) -> str:
    items = "".join(
        f"<li>{escape(node.label)}{_render_nodes(node.children)}</li>" for node in nodes
    )
    return f'<ul class="tree">{items}</ul>' if items else ""
