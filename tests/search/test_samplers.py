from __future__ import annotations

import pytest

from search.samplers import create_sampler


@pytest.mark.parametrize(
    ("num_pipelines", "population"),
    [(8, 4), (24, 8), (80, 8), (240, 24), (500, 50), (10_000, 50)],
)
def test_a_generation_is_a_tenth_of_the_study(num_pipelines: int, population: int) -> None:
    for name in ("nsga2", "nsga3"):
        sampler = create_sampler(name, seed=0, trial_number=0, num_pipelines=num_pipelines)
        assert sampler.population_size == population
