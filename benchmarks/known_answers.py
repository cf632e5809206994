"""Test problems with known hypervolume, which are optimised through a study of this project.

Source: Zitzler, Deb, Thiele, "Comparison of multiobjective evolutionary algorithms", 2000 (ZDT1 and
    ZDT2, section 3); Deb, Thiele, Laumanns, Zitzler, "Scalable test problems for evolutionary
    multiobjective optimization", 2005 (DTLZ2, section 6.2). The hypervolume is the volume of the
    box up to the reference point minus the volume under the front, as in BoTorch's test_functions
    (https://github.com/meta-pytorch/botorch, multi_objective.py). On the front, g is 1 for ZDT and
    0 for DTLZ, so the hypervolumes hold for every number of variables.
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
    """A test problem over x in [0, 1]^5.

    Attributes:
        evaluate: Function of x, of shape (5,), that returns the objectives, which are minimised.
        sample_front: Function of a number n that returns n points of the true front, (n,
            objectives).
        under_front: Volume between the ideal point 0 and the true front.
        reference: Worst value that counts, the same for every objective.
        num_objectives: Number of objectives, 2 or 3.
    """

    evaluate: Callable[[NDArray[Any]], NDArray[Any]]
    sample_front: Callable[[int], NDArray[Any]]
    under_front: float
    reference: float
    num_objectives: int = 2

    @property
    def hypervolume(self) -> float:
        """The hypervolume of the true front, as a share of the reference's box."""
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
    """Optimise a problem through a study; returns the objectives as metrics of its pipelines.

    Args:
        name: Name of the problem, a key of `PROBLEMS`.
        sampler: Sampler of the study.
        seed: Seed of the study.
        num_evaluations: Number of pipelines of the study.
        sees_all: Whether the sampler sees all finished pipelines, even if it normally sees only
            some of them.
    """
    problem = PROBLEMS[name]
    config = StudyConfig(
        num_pipelines=num_evaluations,
        sampler=sampler,
        seed=seed,
        space=SPACE,
        objectives=OBJECTIVE_NAMES[: problem.num_objectives],
        continuation=False,  # the sampler proposes every variable
    )
    max_history = None if sees_all else MAX_HISTORY
    memory = Path("/dev/shm")  # every line of a journal would wait for the disk
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        study = PipelineStudy(config, Path(folder), max_history=max_history)
        while (proposal := study.ask()) is not None:
            values = problem.evaluate(to_variables(proposal.settings))
            study.tell(proposal.number, "complete", result=StageResult(metrics=to_metrics(values)))
    return [dict(record.metrics) for record in study.records.values()]


def measure(name: str, metrics: Sequence[Mapping[str, float]]) -> float:
    """Compute the hypervolume as a share of the box from a problem's reference to the ideal."""
    problem = PROBLEMS[name]
    return hypervolume_fraction(metrics, to_metrics([problem.reference] * problem.num_objectives))


def to_variables(settings: ChainSettings) -> NDArray[Any]:
    """Scale the continuous settings of a pipeline to [0, 1]^5; lr is scaled by its logarithm."""
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
    """Name the objectives as the study does; a value v that is maximised becomes 1 - v."""
    names = OBJECTIVE_NAMES[: len(values)]
    return {
        name: 1.0 - float(value) if OBJECTIVES[name].direction == "maximize" else float(value)
        for name, value in zip(names, values, strict=True)
    }
