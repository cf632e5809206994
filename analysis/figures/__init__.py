"""The report's figures: each has a pure `_get_..._info` and a thin function that draws it."""

from __future__ import annotations

from analysis.figures.front_2d import plot_front_2d
from analysis.figures.front_3d import plot_front_3d
from analysis.figures.hypervolume_history import plot_hypervolume_history
from analysis.figures.importance import plot_importance
from analysis.figures.lineage import plot_lineage
from analysis.figures.parallel_coordinates import plot_parallel_coordinates
from analysis.figures.png import write_front_png, write_hypervolume_png

__all__ = [
    "plot_front_2d",
    "plot_front_3d",
    "plot_hypervolume_history",
    "plot_importance",
    "plot_lineage",
    "plot_parallel_coordinates",
    "write_front_png",
    "write_hypervolume_png",
]
