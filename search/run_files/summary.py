"""Prints the summary at the end of a run: the front, the failures, and the next commands."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from search.pipelines.confirmation import Confirmation
from search.pipelines.front import find_front
from search.pipelines.study import JOURNAL_FILE, PipelineStudy
from trainables.chain import describe_settings
from trainables.pipeline import Baseline

REPORT_COMMAND = (sys.executable, "-m", "analysis.report")
MOST_LISTED = 8


def write_report(run_dir: Path) -> Path | None:
    """Write report/index.html in a separate process; return None if it fails."""
    command = [*REPORT_COMMAND, str(run_dir)]
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"the report could not be written: {error}\n")
        return None
    if ended.returncode:
        sys.stderr.write(ended.stderr.strip() + "\n")
        return None
    return run_dir / "report" / "index.html"


def print_summary(
    study: PipelineStudy,
    baselines: Sequence[Baseline],
    console: Console,
    kept_out: Mapping[int, str] | None = None,
) -> None:
    """Print the baselines, the front, and the pipelines outside it with their reasons.

    Args:
        study: Study that has ended or was interrupted.
        baselines: Uncompressed networks measured so far.
        console: Console to print to.
        kept_out: Reasons why an earlier answer has kept networks out of the front, by trial number.
    """
    kept_out = kept_out or {}
    front = find_front(study.records.values(), study.config.objectives, kept_out)
    num_complete = sum(record.state == "complete" for record in study.records.values())
    if front or baselines:
        table = Table(title=f"Pareto front: {len(front)} of {num_complete} complete pipelines")
        for column in ("network", "mIoU", "latency", "params", "MACs", "settings"):
            table.add_column(
                column, justify="left" if column in ("network", "settings") else "right"
            )
        for baseline in baselines:
            values = baseline._asdict()
            table.add_row(baseline.name, *_numbers(values), "", style="dim")
        for record in sorted(front, key=lambda record: -record.metrics["miou"]):
            chosen = describe_settings(record.settings)
            table.add_row(str(record.number), *_numbers(record.metrics), chosen)
        console.print(table)
    reasons: dict[tuple[str, str], list[int]] = {}
    for number, reason in kept_out.items():
        reasons.setdefault(("kept out of the front", reason), []).append(number)
    for record in study.records.values():
        if record.state in ("failed", "stopped"):
            reasons.setdefault((record.state, record.reason), []).append(record.number)
    num_errors = sum(len(numbers) for (state, _), numbers in reasons.items() if state == "failed")
    total = study.config.num_pipelines
    console.print(f"num_errors: {num_errors} of {total} pipelines failed", highlight=False)
    for (state, reason), numbers in sorted(reasons.items(), key=lambda entry: -len(entry[1])):
        listed = ", ".join(map(str, numbers[:MOST_LISTED]))
        more = ", ..." if len(numbers) > MOST_LISTED else ""
        text = f"{len(numbers)} x {state}: {reason} (trial {listed}{more})"
        console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_confirmation(confirmation: Confirmation, report: Path | None, console: Console) -> None:
    """Print the failed retrainings, and the report's numbers for the retrained members.

    Args:
        confirmation: Retrainings of the front.
        report: Path of the report's index.html, beside which front.csv is; None if it could not be
            written.
        console: Console to print to.
    """
    for entry in confirmation.retrainings.values():
        if entry.state == "failed":
            text = f"retraining of trial {entry.trial} with seed {entry.seed} failed: "
            console.print(text + entry.reason, markup=False)
    if report is None:
        return
    front = pd.read_csv(report.with_name("front.csv"), dtype=str, keep_default_na=False)
    rows = [row for row in front.to_dict("records") if row.get("retrained_miou_mean")]
    if not rows:
        return
    wanted, left = confirmation.num_wanted, confirmation.num_left
    so_far = f" ({wanted - left} of {wanted} so far)" if left else ""
    table = Table(
        title=f"The front retrained{so_far}: mIoU of fine-tunings with other seeds",
        caption="The search's own mIoU is left out, because the front was selected by it.",
    )
    columns = ("network", "in the search", "retrainings", "mean", "deviation", "P(on front)")
    for column in columns:
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in rows:
        count = f"{float(row['num_retrainings']):.0f}"
        mean = f"{float(row['retrained_miou_mean']):.3f}"
        deviation, chance = (
            f"{float(row[name]):.{digits}f}" if row.get(name) else "-"
            for name, digits in (("retrained_miou_std", 3), ("probability_non_dominated", 2))
        )
        search = f"{float(row['miou']):.3f}"
        table.add_row(row["trial"], search, count, mean, deviation, chance)
    console.print(table)


def print_next_steps(
    study: PipelineStudy,
    confirmation: Confirmation,
    run_dir: Path,
    report: Path | None,
    console: Console,
    storage: str | None = None,
    missing: Collection[str] = (),
) -> None:
    """Print the path of the report and the commands that are useful next.

    Args:
        study: Study, for the number of unfinished pipelines.
        confirmation: Retrainings of the front, for the number that is left.
        run_dir: Folder of the run, or the driver's copy of it.
        report: Path of the report's index.html; None if it could not be written.
        console: Console to print to.
        storage: URI of the run; None if it is in a local folder.
        missing: Names of the uncompressed networks that are not trained and measured yet.
    """
    folder = shlex.quote(str(run_dir))
    place = shlex.quote(storage or str(run_dir))
    rows = []
    if storage is not None:
        rows.append(("the run", storage))
        rows.append(
            ("fetch all of it", f"python -m trainables.artifacts.remote_folder {place} DIR")
        )
    if report is not None:
        rows.append(("report", str(report)))
    else:
        rows.append(("write the report", f"python analysis/report.py {folder}"))
    if (run_dir / "deploy").is_dir():
        rows.append(("files to deploy", str(run_dir / "deploy")))
    if study.num_unfinished or confirmation.num_left or missing:
        more = "" if study.config.time_limit is None else " --time-limit 1h"
        rows.append(("continue", f"python search/run.py --resume {place}{more}"))
    elif not study.config.confirm and study.config.can_confirm:
        # The study has used up its time limit, or nearly so.
        more = "" if study.config.time_limit is None else " --time-limit none"
        command = f"python search/run.py --resume {place} --confirm 3{more}"
        rows.append(("confirm the front", command))
    rows.append(("browse the study", f"optuna-dashboard {folder}/{JOURNAL_FILE}"))
    if study.config.pipeline.data.name == "synthetic":
        rows.append(("real data", "python search/run.py camvid --download"))
    rows.append(
        (
            "your own data",
            "python search/run.py camvid --pipeline.data.name folder --data-root DIR",
        )
    )
    for label, text in rows:
        console.print(f"{label:>17}: {text}", markup=False, highlight=False, soft_wrap=True)


def _numbers(entry: Mapping[str, Any]) -> list[str]:
    latency = entry.get("latency_ms")
    return [
        f"{entry['miou']:.3f}",
        "" if latency is None else f"{latency:.1f} ms",
        _count(entry["num_params"]),
        _count(entry["macs"]),
    ]


def _count(number: float) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size:
            return f"{number / size:.2f} {unit}"
    return f"{number:.0f}"
