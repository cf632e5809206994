"""Samplers on problems whose best answer is known (`benchmarks/known_answers.py`)."""

from __future__ import annotations

import importlib
import statistics
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from search.proposing.samplers import SamplerName

NAMES = ("zdt1", "zdt2", "dtlz2-2", "dtlz2-3")


@pytest.fixture
def known_answers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
    return importlib.import_module("known_answers")


@pytest.mark.parametrize("name", NAMES)
def test_the_true_front_has_the_known_hypervolume(name: str, known_answers: ModuleType) -> None:
    problem = known_answers.PROBLEMS[name]
    front = problem.sample_front(40_000)
    reached = known_answers.measure(name, [known_answers.to_metrics(point) for point in front])
    # Finitely many points leave out steps: a little below the formula, never above.
    assert problem.hypervolume - 4e-3 < reached < problem.hypervolume


def test_the_fronts_are_as_published(known_answers: ModuleType) -> None:
    first, second = known_answers.PROBLEMS["zdt1"], known_answers.PROBLEMS["zdt2"]
    assert first.evaluate(np.array([0.25, 0, 0, 0, 0])) == pytest.approx([0.25, 0.5])
    assert second.evaluate(np.array([0.5, 0, 0, 0, 0])) == pytest.approx([0.5, 0.75])
    # g = 1 + 9 x 1 = 10; f2 = 10 (1 - sqrt(0.4 / 10)) = 8
    assert first.evaluate(np.array([0.4, 1, 1, 1, 1])) == pytest.approx([0.4, 8.0])
    for name in ("dtlz2-2", "dtlz2-3"):
        problem = known_answers.PROBLEMS[name]
        for x in np.random.default_rng(0).random((5, 5)):
            # f = (1 + g) times a point of the unit sphere
            g = ((x[problem.num_objectives - 1 :] - 0.5) ** 2).sum()
            assert np.linalg.norm(problem.evaluate(x)) == pytest.approx(1 + g)
        axes = problem.evaluate(np.array([0, 0, 0.5, 0.5, 0.5]))
        assert axes[0] >= 1
        assert axes[1:] == pytest.approx(np.zeros(problem.num_objectives - 1))


@pytest.mark.parametrize(
    ("name", "sampler", "num_evaluations", "margin", "num_seeds"),
    [
        ("zdt1", "tpe", 120, 0.15, 1),
        ("zdt2", "tpe", 120, 0.15, 1),
        ("dtlz2-2", "tpe", 120, 0.05, 1),
        ("dtlz2-3", "tpe", 120, 0.08, 1),
        ("zdt1", "nsga2", 240, 0.1, 1),
        ("zdt2", "nsga2", 240, 0.05, 1),
        ("dtlz2-2", "nsga2", 240, 0.002, 1),
        # Over four seeds 0.417 on average, from 0.383 to 0.446; chance 0.391, from 0.382 to 0.402.
        ("dtlz2-3", "nsga2", 240, 0.005, 3),
    ],
)
def test_a_sampler_beats_chance(
    name: str,
    sampler: SamplerName,
    num_evaluations: int,
    margin: float,
    num_seeds: int,
    known_answers: ModuleType,
) -> None:
    def measure(kind: SamplerName) -> float:
        return statistics.fmean(
            known_answers.measure(
                name, known_answers.optimise(name, kind, seed=seed, num_evaluations=num_evaluations)
            )
            for seed in range(num_seeds)
        )

    assert measure(sampler) > measure("random") + margin
