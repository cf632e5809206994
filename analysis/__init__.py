"""What came of a search: load a run's results files, Pareto maths, figures and the HTML report.

Nothing here imports the packages that search, train or build networks: a run describes itself.
"""

from __future__ import annotations

from analysis.pareto import hypervolume, non_dominated_mask, relative_hypervolume
from analysis.results import Results, ResultsError, Run, Trial, combine_runs, load_run
from analysis.summary import Summary, summarize

__all__ = [
    "Results",
    "ResultsError",
    "Run",
    "Summary",
    "Trial",
    "combine_runs",
    "hypervolume",
    "load_run",
    "non_dominated_mask",
    "relative_hypervolume",
    "summarize",
]
