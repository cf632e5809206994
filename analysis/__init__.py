"""Analyses a search: reads a run's results files, computes the front, draws figures and the report.

It imports none of the packages that search, train or build networks, because the files of a run
describe themselves.
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
