"""The text shown over a mark: the measures and settings of a trial."""

from __future__ import annotations

from html import escape

from analysis.quantities import format_setting, get_quantity
from analysis.results import Baseline, Results, Trial

ALSO_SHOWN = {"latency_p95_ms": "Latency p95", "macs": "MACs", "miou_pruned": "mIoU when pruned"}


def describe_trial(results: Results, trial: Trial) -> str:
    """Return the objectives, other main measures and settings of a trial, one per line, escaped."""
    lines = [f"<b>Trial {escape(results.label(trial))}</b>"]
    lines += [
        f"{escape(objective.label)}  <b>{escape(objective.quantity.text(value))}</b>"
        for objective in results.objectives
        if (value := trial.measures.get(objective.name)) is not None
    ]
    for name, label in ALSO_SHOWN.items():
        if name in trial.measures and results.find_objective(name) is None:
            shown_as = {"latency_p95_ms": "latency_ms", "miou_pruned": "miou"}.get(name, name)
            lines.append(f"{label}  {get_quantity(shown_as, label).text(trial.measures[name])}")
    lines.append("")
    labels = results.setting_labels
    lines += [
        f"{escape(labels[name])}  {escape(format_setting(value))}"
        for name, value in trial.settings.items()
    ]
    return "<br>".join(lines)


def describe_baseline(results: Results, baseline: Baseline) -> str:
    """Return the name, the model and the objectives of a baseline, one per line, escaped."""
    lines = [f"<b>{escape(baseline.name)}</b> {escape(baseline.model)}"]
    lines += [
        f"{escape(objective.label)}  <b>{escape(objective.quantity.text(value))}</b>"
        for objective in results.objectives
        if (value := baseline.values.get(objective.name)) is not None
    ]
    return "<br>".join(lines)
