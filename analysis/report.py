"""Write the report of one or several runs: `python analysis/report.py RUN_DIR [RUN_DIR ...]`."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from analysis import figures, page
from analysis.answer_sections import (
    render_chooser,
    render_class_iou,
    render_held_out,
    render_lineage,
    render_problems,
)
from analysis.choosing import BUDGETS, choose_trial, describe_choice, find_candidates
from analysis.figures.theme import FigureNotMadeError
from analysis.front_table import write_front_csv
from analysis.picture_files import FOLDER, write_picture_files
from analysis.picture_section import get_picture_folder, render_pictures
from analysis.results import Results, ResultsError, combine_runs, load_run
from analysis.run_description import describe_data
from analysis.sections import (
    describe_recipes,
    render_conditions,
    render_front_members,
    render_fronts,
    render_header,
    render_progress,
    render_settings,
    short_name,
)
from analysis.summary import Summary, summarize


def write_report(run_dirs: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write index.html and the files that it loads, PNG copies of the main figures, and front.csv.

    Args:
        run_dirs: Folders of runs. They must have the same objectives, data set and latency
            measurement.
        output: Folder to write to; RUN_DIR/report of the first run if not given.

    Returns:
        Path of index.html.

    Raises:
        ResultsError: A run cannot be read, or the runs are not comparable.
    """
    results = combine_runs([load_run(folder) for folder in run_dirs])
    summary = summarize(results)
    folder = Path(output).resolve() if output else results.runs[0].folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    body = "\n".join(
        [
            render_header(results, summary),
            render_chooser(results),
            render_fronts(results, summary),
            render_pictures(results),
            render_class_iou(results, summary),
            render_front_members(results, summary, folder),
            render_held_out(results, summary),
            render_lineage(results, summary),
            render_progress(results, summary),
            render_settings(results, summary),
            render_problems(results),
            render_conditions(results, summary),
        ]
    )
    path = folder / "index.html"
    path.write_text(
        page.render_page(f"{describe_recipes(results)} · segfront", body), encoding="utf-8"
    )
    page.write_plotly(folder)
    write_front_csv(folder / "front.csv", results, summary)
    _write_pictures(folder, results)
    _write_pngs(folder, results, summary)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, and write the report or print the best network for a budget.

    Returns:
        Exit status: 0 on success, 1 if a run cannot be read, 3 if no network is within the budget.
    """
    parser = argparse.ArgumentParser(description="Write the report of one or several runs.")
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument(
        "--output", metavar="DIR", help="folder to write to (default: RUN_DIR/report)"
    )
    for name, unit in (("latency-ms", "milliseconds"), ("num-params", "parameters")):
        parser.add_argument(
            f"--max-{name}",
            type=_positive,
            metavar="NUMBER",
            help=f"print the best network with at most this many {unit}, and write no report",
        )
    options = parser.parse_args(arguments)
    limits = {name: most for name in BUDGETS if (most := getattr(options, f"max_{name}"))}
    try:
        if limits:
            results = combine_runs([load_run(folder) for folder in options.run_dirs])
            print(describe_choice(results, limits))
            return 0 if choose_trial(find_candidates(results), limits) else 3
        path = write_report(options.run_dirs, options.output)
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path)
    return 0


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def _write_pictures(folder: Path, results: Results) -> None:
    """Write the pictures of all runs, and remove those of an earlier report."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
    for run in results.runs:
        if run.pictures is not None:
            write_picture_files(run.pictures, folder / get_picture_folder(run))


def _write_pngs(folder: Path, results: Results, summary: Summary) -> None:
    """Write the PNG copies, and remove those of an earlier report that cannot be made again."""
    title = describe_data(results.runs[0]) or describe_recipes(results)
    first, *costs = results.objectives
    jobs: dict[Path, Callable[[Path], None]] = {}
    for cost in costs[:2]:
        jobs[folder / f"front_{short_name(cost.name)}.png"] = partial(
            figures.write_front_png,
            results=results,
            summary=summary,
            x=cost.name,
            y=first.name,
            title=title,
        )
    jobs[folder / "hypervolume.png"] = partial(
        figures.write_hypervolume_png, results=results, summary=summary, title=title
    )
    for path, write in jobs.items():
        try:
            write(path)
        except FigureNotMadeError:
            # index.html shows the reason in place of the figure.
            path.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
