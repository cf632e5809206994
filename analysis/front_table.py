"""The members of the front as a table: objectives, settings and the place of the network."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pandas as pd

from analysis.front_measures import derive_measures
from analysis.quantities import format_number, format_setting, get_quantity
from analysis.results import Results, Run, Trial
from analysis.summary import Summary
from analysis.trials_csv import SETTING


class Cell(NamedTuple):
    """One cell of a table.

    Attributes:
        text: Text that is shown.
        order: Value to sort by; it is a text if the column has texts.
        link: Relative, quoted address; "" for none.
    """

    text: str
    order: float | str
    link: str = ""


ABSENT = Cell("–", "-Infinity")  # report.js sorts it before all numbers and all texts


class Column(NamedTuple):
    """A column of the table that shows a measure.

    Attributes:
        title: Title with the unit.
        show: Function that turns a stored value into the text that is shown.
    """

    title: str
    show: Callable[[float], str]


def _percent(value: float) -> str:
    return f"{100 * value:.0f}"


NETWORK_FILES = ("checkpoint.safetensors", "model.json")
"""Files that can describe a network in its folder: a checkpoint, or files ready to deploy."""

# Columns after the objectives.
DERIVED = {
    "test_miou": Column("mIoU on test (%)", lambda value: f"{100 * value:.1f}"),
    "retrained_miou_mean": Column("Retrained: mean mIoU (%)", lambda value: f"{100 * value:.2f}"),
    "retrained_miou_std": Column("Deviation (points)", lambda value: f"{100 * value:.2f}"),
    "num_retrainings": Column("Retrainings", lambda value: f"{value:.0f}"),
    "probability_non_dominated": Column("P(non-dominated)", lambda value: f"{value:.2f}"),
    "speedup": Column("Speed-up (×)", format_number),
    "speedup_theoretical": Column("Speed-up by MACs (×)", format_number),
    "speedup_realised_share": Column("Realised / by MACs (%)", _percent),
}
# Columns at the end.
EXTRAS = {
    "macs": Column(get_quantity("macs", "MACs").title, get_quantity("macs").digits),
    "latency_p95_ms": Column("Latency p95 (ms)", get_quantity("latency_ms").digits),
    "seconds_total": Column("Compute (min)", lambda value: format_number(value / 60)),
}


class FrontTableInfo(NamedTuple):
    """The table of the front.

    Attributes:
        columns: Titles of the columns.
        rows: Cells of each member, in the order of the front.
        constants: Settings that are the same in all trials, as "name value".
    """

    columns: list[str]
    rows: list[list[Cell]]
    constants: list[str]


def get_front_table_info(results: Results, summary: Summary, output: Path) -> FrontTableInfo:
    """Collect the table of the front, with links relative to the folder of the report.

    Args:
        results: The runs.
        summary: Summary of the runs.
        output: Folder of the report.
    """
    varied = results.varied_settings
    known = _collect_measures(results, summary)
    derived, extras = (
        {
            name: column
            for name, column in columns.items()
            if results.find_objective(name) is None and any(name in entry for entry in known)
        }
        for columns in (DERIVED, EXTRAS)
    )
    columns = ["Trial", *(objective.quantity.title for objective in results.objectives)]
    columns += [column.title for column in derived.values()]
    labels = results.setting_labels
    columns += [
        "Checkpoint",
        *(labels[name] for name in varied),
        *(column.title for column in extras.values()),
    ]
    rows = []
    for trial, measures in zip(summary.front, known, strict=True):
        row = [Cell(results.label(trial), f"{trial.run}/{trial.number:06d}")]
        row += [
            Cell(o.quantity.digits(trial.measures[o.name]), trial.measures[o.name])
            for o in results.objectives
        ]
        row += _measure_cells(measures, derived)
        row.append(_checkpoint_cell(results, trial, output))
        row += [_setting_cell(trial, name) for name in varied]
        rows.append([*row, *_measure_cells(measures, extras)])
    constants = [
        f"{labels[name]} {format_setting(results.trials[0].settings.get(name))}"
        for name in results.setting_names
        if name not in varied
    ]
    return FrontTableInfo(columns, rows, constants)


def write_front_csv(path: Path, results: Results, summary: Summary) -> None:
    """Write the members of the front with their full numbers to a CSV file."""
    known = _collect_measures(results, summary)
    measured = list(dict.fromkeys(name for measures in known for name in measures))
    settings = results.setting_names
    columns = ["run", "trial", *measured, *(f"{SETTING}{name}" for name in settings), "stage"]
    rows = [
        {
            "run": trial.run,
            "trial": trial.number,
            **measures,
            **{f"{SETTING}{name}": value for name, value in trial.settings.items()},
            "stage": trial.answer,
        }
        for trial, measures in zip(summary.front, known, strict=True)
    ]
    # With dtype object, integers stay integers in a column with empty cells.
    pd.DataFrame(rows, columns=columns, dtype=object).to_csv(
        path, index=False, lineterminator="\n", encoding="utf-8"
    )


def _collect_measures(results: Results, summary: Summary) -> list[dict[str, float]]:
    derived = derive_measures(results, summary.front)
    return [{**trial.measures, **more} for trial, more in zip(summary.front, derived, strict=True)]


def _measure_cells(measures: Mapping[str, float], columns: Mapping[str, Column]) -> list[Cell]:
    return [
        Cell(column.show(measures[name]), measures[name]) if name in measures else ABSENT
        for name, column in columns.items()
    ]


def _setting_cell(trial: Trial, name: str) -> Cell:
    value = trial.settings.get(name)
    if value is None:
        return ABSENT
    return Cell(format_setting(value), value if isinstance(value, int | float) else str(value))


def _checkpoint_cell(results: Results, trial: Trial, output: Path) -> Cell:
    path = _checkpoint_path(results.get_run(trial), trial)
    if path is None:
        return ABSENT
    if not path.is_file():
        return Cell(f"{path.parent.name} (not here)", path.parent.name)
    link = quote(os.path.relpath(path, output).replace(os.sep, "/"))
    return Cell(path.parent.name, path.parent.name, link)


def _checkpoint_path(run: Run, trial: Trial) -> Path | None:
    if not trial.answer:
        return None
    folder = run.folder / "stages" / trial.answer
    found = (folder / name for name in NETWORK_FILES if (folder / name).is_file())
    return next(found, folder / NETWORK_FILES[0])
