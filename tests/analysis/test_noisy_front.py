"""The probability of being non-dominated, against cases worked out by hand and exact fronts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.noisy_front import estimate_probability_non_dominated, pool_deviation
from analysis.pareto import non_dominated_mask

ERROR = 0.02  # four standard errors of 10 000 draws


def estimate(samples, costs, **options):
    return estimate_probability_non_dominated(samples, costs, **options).tolist()


def test_deviation_is_pooled_by_degrees_of_freedom():
    # Squares about the means: 1 + 1 and 1 + 1 + 1 + 1, with 1 + 3 degrees of freedom.
    deviation, freedom = pool_deviation([[1.0, 3.0], [0.0, 2.0, 2.0, 0.0], [7.0]])
    assert freedom == 4
    assert deviation == pytest.approx(math.sqrt(6 / 4))
    assert pool_deviation([[1.0], [2.0]]) == (0.0, 0)
    assert pool_deviation([]) == (0.0, 0)


def test_equal_costs_and_equal_means_are_a_toss():
    samples = [[0.4, 0.6], [0.6, 0.4]]
    assert estimate(samples, [[5.0, 1.0], [5.0, 1.0]]) == pytest.approx([0.5, 0.5], abs=ERROR)


def test_three_equals_share_the_place():
    assert estimate([[0.4, 0.6]] * 3, [[5.0]] * 3) == pytest.approx([1 / 3] * 3, abs=ERROR)


def test_who_costs_less_than_all_others_is_sure_of_its_place():
    samples = [[0.1, 0.2], [0.8, 0.9], [0.8, 0.9]]
    first, second, third = estimate(samples, [[1.0, 9.0], [2.0, 3.0], [2.0, 3.0]])
    assert first == 1.0
    assert second + third == pytest.approx(1.0, abs=1e-12)


def test_a_costly_member_must_be_better():
    # Means 0.51 and 0.55, both variances 0.0002, so the difference 0.04 has the standard error
    # sqrt(0.0002 / 2 + 0.0002 / 2) and 2 degrees of freedom: t = 2 sqrt 2. The distribution
    # function of Student's t with 2 degrees of freedom is 1/2 + t / (2 sqrt(2 + t^2)).
    t = 2 * math.sqrt(2)
    chance = 0.5 + t / (2 * math.sqrt(2 + t * t))
    costs = [[1.0], [2.0]]
    better = estimate([[0.50, 0.52], [0.54, 0.56]], costs)
    assert better == pytest.approx([1.0, chance], abs=ERROR)
    worse = estimate([[0.54, 0.56], [0.50, 0.52]], costs)
    assert worse == pytest.approx([1.0, 1 - chance], abs=ERROR)


def test_more_repetitions_make_sure():
    pair = ([0.50, 0.52], [0.51, 0.53])
    chances = [estimate([low * n, high * n], [[1.0], [2.0]])[1] for n in (1, 4, 16)
               for low, high in [pair]]  # fmt: skip
    assert chances == sorted(chances)
    assert chances[0] < 0.8
    assert chances[2] > 0.99


def test_a_single_repetition_borrows_the_deviation_of_the_others():
    # One against the mean of two: the difference 0 is as likely above as below.
    assert estimate([[0.5, 0.7], [0.6]], [[1.0], [2.0]]) == pytest.approx([1.0, 0.5], abs=ERROR)


def test_the_same_seed_gives_the_same_answer():
    arguments = [[0.50, 0.52], [0.51, 0.53]], [[1.0], [2.0]]
    assert estimate(*arguments) == estimate(*arguments)
    assert estimate(*arguments) != estimate(*arguments, seed=1)


@pytest.mark.parametrize(
    ("samples", "costs", "message"),
    [
        ([[0.5], [0.6]], [[1.0], [2.0]], "must have two repetitions"),
        ([[0.5, 0.6], []], [[1.0], [2.0]], "must have a repetition"),
        ([[0.5, 0.6]], [[1.0], [2.0]], r"costs must be \(1, C\), got \(2, 1\)"),
        ([[0.5, 0.6]], [1.0], r"costs must be \(1, C\), got \(1,\)"),
    ],
)
def test_what_cannot_be_told_is_refused(samples, costs, message):
    with pytest.raises(ValueError, match=message):
        estimate(samples, costs)


@st.composite
def members(draw):
    """Small integer grids, so that ties are common."""
    size = draw(st.integers(1, 6))
    costs = draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=size,
                          max_size=size))  # fmt: skip
    values = draw(st.lists(st.integers(0, 3), min_size=size, max_size=size))
    return np.array(costs, dtype=float), [float(value) for value in values]


@given(members())
@settings(deadline=None, max_examples=60)
def test_without_noise_it_is_the_front(problem):
    costs, values = problem
    mask = non_dominated_mask(np.column_stack([values, costs]), ["max", "min", "min"])
    assert estimate([[value] * 3 for value in values], costs) == mask.astype(float).tolist()


@given(members(), st.floats(0.01, 2.0))
@settings(deadline=None, max_examples=60)
def test_probabilities_are_those_of_fronts(problem, noise):
    costs, values = problem
    samples = [[value - noise, value + noise] for value in values]
    chances = np.array(estimate(samples, costs))
    assert ((chances >= 0) & (chances <= 1)).all()
    assert chances.sum() >= 1 - 1e-9  # every draw has a front
    # The cheapest of each kind: none else is at once as cheap.
    for member, cost in enumerate(costs):
        rivals = [(other <= cost).all() for i, other in enumerate(costs) if i != member]
        if not any(rivals):
            assert chances[member] == 1.0
    # Neither the unit of mIoU nor that of the costs counts.
    scaled = estimate([[8 * value for value in pair] for pair in samples], costs * 4 + 1)
    assert scaled == chances.tolist()
