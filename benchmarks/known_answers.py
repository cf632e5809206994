"""Test problems whose hypervolume is known, optimised through a study of this project.

Source: Zitzler, Deb, Thiele, "Comparison of multiobjective evolutionary algorithms", 2000 (ZDT1 and
    ZDT2, section 3); Deb, Thiele, Laumanns, Zitzler, "Scalable test problems for evolutionary
    multiobjective optimization", 2005 (DTLZ2, section 6.2). The hypervolumes are the box up to the
    reference point less the volume under the front, as in BoTorch's test_functions
    (https://github.com/meta-pytorch/botorch, multi_objective.py); g is 1 at the front of ZDT and 0
    at that of DTLZ, so that they hold for every number of variables.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search.config import StudyConfig
from search.objectives import OBJECTIVES, ObjectiveName
from search.pipelines.front import hypervolume_fraction
from search.pipelines.study import PipelineStudy
from search.proposing.bounded_history import MAX_HISTORY
from search.proposing.samplers import SamplerName
from search.space import make_space
from trainables.chain import ChainSettings
from trainables.pipeline import StageResult
from trainables.ranges import FloatRange

VARIABLES = (
    *(f"distilled.dkd.{name}" for name in ("temperature", "alpha", "beta", "eta")),
    "distilled.lr",
)
SPACE = make_space(
    sparsity_lambda=(1e-5,),
    pruning_ratio=FloatRange(low=0.5, high=0.5),
    scope=("local",),
    distiller=("dkd",),
)
OBJECTIVE_NAMES: tuple[ObjectiveName, ...] = ("miou", "latency_ms", "num_params")


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """A problem over x in [0, 1]^5.

    Attributes:
        evaluate: x of shape (5,) -> objectives, to be minimised.
        sample_front: Number of points -> points of the true front, (n, objectives).
        under_front: Volume between the ideal, 0, and the true front.
        reference: Worst value that counts, in every objective.
        num_objectives: 2 or 3.
    """

    evaluate: Callable[[NDArray[Any]], NDArray[Any]]
    sample_front: Callable[[int], NDArray[Any]]
    under_front: float
    reference: float
    num_objectives: int = 2

    @property
    def hypervolume(self) -> float:
        """Of the true front, as a share of the box between the reference and the ideal."""
        return 1 - self.under_front / self.reference**self.num_objectives


def _zdt(x: NDArray[Any], power: float) -> NDArray[Any]:
    g = 1 + 9 * x[1:].mean()
    return np.array([x[0], g * (1 - (x[0] / g) ** power)])


def _zdt_front(num_points: int, power: float) -> NDArray[Any]:
    first = np.linspace(0, 1, num_points)
    return np.stack([first, 1 - first**power], axis=1)


def _dtlz2(x: NDArray[Any], num_objectives: int) -> NDArray[Any]:
    angles = x[: num_objectives - 1] * math.pi / 2
    g = ((x[num_objectives - 1 :] - 0.5) ** 2).sum()
    cosines = np.concatenate([[1.0], np.cumprod(np.cos(angles))])[::-1]
    sines = np.concatenate([[1.0], np.sin(angles)[::-1]])
    return np.asarray((1 + g) * cosines * sines)


def _dtlz2_front(num_points: int, num_objectives: int) -> NDArray[Any]:
    side = round(num_points ** (1 / (num_objectives - 1)))
    grid = np.meshgrid(*[np.linspace(0, 1, side)] * (num_objectives - 1))
    points = np.stack([axis.ravel() for axis in grid], axis=1)
    rest = np.full((len(points), len(VARIABLES) - num_objectives + 1), 0.5)
    return np.array([_dtlz2(x, num_objectives) for x in np.hstack([points, rest])])


PROBLEMS: dict[str, Problem] = {
    "zdt1": Problem(
        evaluate=lambda x: _zdt(x, 0.5),
        sample_front=lambda n: _zdt_front(n, 0.5),
        under_front=1 / 3,  # integral of 1 - sqrt(x)
        reference=2.0,
    ),
    "zdt2": Problem(
        evaluate=lambda x: _zdt(x, 2.0),
        sample_front=lambda n: _zdt_front(n, 2.0),
        under_front=2 / 3,  # integral of 1 - x^2
        reference=2.0,
    ),
    "dtlz2-2": Problem(
        evaluate=lambda x: _dtlz2(x, 2),
        sample_front=lambda n: _dtlz2_front(n, 2),
        under_front=math.pi / 4,  # quarter of the unit disk
        reference=1.1,
    ),
    "dtlz2-3": Problem(
        evaluate=lambda x: _dtlz2(x, 3),
        sample_front=lambda n: _dtlz2_front(n, 3),
        under_front=math.pi / 6,  # eighth of the unit ball
        reference=1.1,
        num_objectives=3,
    ),
}


def optimise(
    name: str,
    sampler: SamplerName,
    *,
    seed: int,
    num_evaluations: int,
    sees_all: bool = False,
) -> list[dict[str, float]]:
    """Let a study choose x; returns the metrics of its pipelines, which are the objectives.

    Args:
        name: Key of `PROBLEMS`.
        sampler: Of the study.
        seed: Of the study.
        num_evaluations: Pipelines of the study.
        sees_all: Show the sampler all finished pipelines, also one that is shown a part.
    """
    problem = PROBLEMS[name]
    config = StudyConfig(
        num_pipelines=num_evaluations,
        sampler=sampler,
        seed=seed,
        space=SPACE,
        objectives=OBJECTIVE_NAMES[: problem.num_objectives],
        continuation=False,  # every variable is the sampler's
    )
    max_history = None if sees_all else MAX_HISTORY
    memory = Path("/dev/shm")  # the journal's every line waits for a disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        study = PipelineStudy(config, Path(folder), max_history=max_history)
        while (proposal := study.ask()) is not None:
            values = problem.evaluate(to_variables(proposal.settings))
            study.tell(proposal.number, "complete", result=StageResult(metrics=to_metrics(values)))
    return [dict(record.metrics) for record in study.records.values()]


def measure(name: str, metrics: Sequence[Mapping[str, float]]) -> float:
    """Hypervolume as a share of the box between a problem's reference and the ideal."""
    problem = PROBLEMS[name]
    return hypervolume_fraction(metrics, to_metrics([problem.reference] * problem.num_objectives))


def to_variables(settings: ChainSettings) -> NDArray[Any]:
    """Scale the continuous settings of a pipeline to [0, 1]^5, lr by its logarithm."""
    scaled = []
    for name in VARIABLES:
        values, value = SPACE.get_range(name), settings[name]
        assert isinstance(values, FloatRange)
        low, high = values.low, values.high
        if values.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        scaled.append((value - low) / (high - low))
    return np.array(scaled).clip(0.0, 1.0)


def to_metrics(values: Sequence[float] | NDArray[Any]) -> dict[str, float]:
    """Name objectives after the study's; what is maximised is turned round at its ideal."""
    names = OBJECTIVE_NAMES[: len(values)]
    return {
        name: 1.0 - float(value) if OBJECTIVES[name].direction == "maximize" else float(value)
        for name, value in zip(names, values, strict=True)
    }
