"""Write the papers' tables and figures from runs: `python -m analysis.papers RUN_DIR ...`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from analysis.papers.figures import write_figures
from analysis.papers.tables import build_tables
from analysis.papers.writing import write_tables
from analysis.results import ResultsError, load_run


def write_papers(run_dirs: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Write every table as HTML, CSV and LaTeX, and the figures.

    Args:
        run_dirs: Folders of runs, which may differ in any way.
        output: Folder to write to; RUN_DIR/papers of the first run if not given.

    Returns:
        Path of index.html.

    Raises:
        ResultsError: A run cannot be read.
    """
    runs = [load_run(folder) for folder in run_dirs]
    folder = Path(output).resolve() if output else runs[0].folder / "papers"
    folder.mkdir(parents=True, exist_ok=True)
    figures = write_figures(runs, folder)
    return write_tables(build_tables(runs), figures, folder)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, write the tables and figures, and print the path of index.html.

    Returns:
        Exit status: 0, or 1 if a run cannot be read.
    """
    parser = argparse.ArgumentParser(
        prog="python -m analysis.papers",
        description="Write the papers' tables and figures from one or several runs.",
    )
    parser.add_argument("run_dirs", nargs="+", metavar="RUN_DIR", help="folder of a run")
    parser.add_argument(
        "--output", metavar="DIR", help="folder to write to (default: RUN_DIR/papers)"
    )
    options = parser.parse_args(arguments)
    try:
        print(write_papers(options.run_dirs, options.output))
    except (ResultsError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
