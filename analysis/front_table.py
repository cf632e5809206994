"""The members of the front as a table: objectives, settings, and where the network lies."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from analysis.quantities import format_number, format_setting, get_quantity
from analysis.results import Results, Run, Trial
from analysis.summary import Summary

EXTRA_MEASURES = {"macs": "MACs", "latency_p95_ms": "Latency p95", "seconds_total": "Compute"}


class Cell(NamedTuple):
    """One cell.

    Attributes:
        text: What is shown.
        order: What it is sorted by; a text where the column holds texts.
        link: Relative, quoted address, "" for none.
    """

    text: str
    order: float | str
    link: str = ""


class FrontTableInfo(NamedTuple):
    """The table of the front.

    Attributes:
        columns: Titles.
        rows: Cells of each member, in the order of the front.
        constants: Settings that all trials share, as "name value".
    """

    columns: list[str]
    rows: list[list[Cell]]
    constants: list[str]


def get_front_table_info(results: Results, summary: Summary, output: Path) -> FrontTableInfo:
    """Collect the table of the front, with links relative to the folder of the report.

    Args:
        results: The runs.
        summary: Their summary.
        output: Folder in which the report will lie.
    """
    varied = results.varied_settings
    extras = [
        name
        for name in EXTRA_MEASURES
        if results.find_objective(name) is None
        and any(name in trial.measures for trial in summary.front)
    ]
    columns = ["Trial", *(objective.quantity.title for objective in results.objectives)]
    columns += ["Checkpoint", *varied, *(_extra_title(name) for name in extras)]
    rows = []
    for trial in summary.front:
        row = [Cell(results.label(trial), f"{trial.run}/{trial.number:06d}")]
        row += [
            Cell(o.quantity.digits(trial.measures[o.name]), trial.measures[o.name])
            for o in results.objectives
        ]
        row.append(_checkpoint_cell(results, trial, output))
        row += [_setting_cell(trial, name) for name in varied]
        rows.append([*row, *(_extra_cell(trial, name) for name in extras)])
    constants = [
        f"{name} {format_setting(results.trials[0].settings.get(name))}"
        for name in results.setting_names
        if name not in varied
    ]
    return FrontTableInfo(columns, rows, constants)


def write_front_csv(path: Path, results: Results, trials: Sequence[Trial]) -> None:
    """Write the members of the front with their full numbers to a CSV file."""
    measures = list(dict.fromkeys(name for trial in trials for name in trial.measures))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        settings = [f"config/{name}" for name in results.setting_names]
        writer.writerow(["run", "trial", *measures, *settings, "stage"])
        for trial in trials:
            cells: list[object] = [trial.measures.get(name, "") for name in measures]
            cells += [trial.settings.get(name, "") for name in results.setting_names]
            stage = list(trial.stages.values())[-1:] or [""]
            writer.writerow([trial.run, trial.number, *cells, *stage])


def _extra_title(name: str) -> str:
    if name == "seconds_total":
        return "Compute (min)"
    return get_quantity(name.replace("_p95", ""), EXTRA_MEASURES[name]).title


def _extra_cell(trial: Trial, name: str) -> Cell:
    value = trial.measures.get(name)
    if value is None:
        return Cell("–", -1.0)
    if name == "seconds_total":
        return Cell(format_number(value / 60), value)
    return Cell(get_quantity(name.replace("_p95", "")).digits(value), value)


def _setting_cell(trial: Trial, name: str) -> Cell:
    value = trial.settings.get(name)
    return Cell(format_setting(value), value if isinstance(value, int | float) else str(value))


def _checkpoint_cell(results: Results, trial: Trial, output: Path) -> Cell:
    run = next(run for run in results.runs if run.folder.name == trial.run)
    path = _checkpoint_path(run, trial)
    if path is None:
        return Cell("–", "")
    if not path.is_file():
        return Cell(f"{path.parent.name} (not here)", path.parent.name)
    link = quote(os.path.relpath(path, output).replace(os.sep, "/"))
    return Cell(path.parent.name, path.parent.name, link)


def _checkpoint_path(run: Run, trial: Trial) -> Path | None:
    if not trial.stages:
        return None
    return run.folder / "stages" / list(trial.stages.values())[-1] / "checkpoint.safetensors"
