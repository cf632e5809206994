from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analysis.pareto import hypervolume, non_dominated_mask, relative_hypervolume

UP, DOWN = "maximize", "minimize"


@st.composite
def problems(draw, max_points=9):
    """Small integer grids, so that ties and duplicates are common and sums are exact."""
    num_objectives = draw(st.sampled_from([2, 3]))
    directions = draw(st.lists(st.sampled_from([UP, DOWN]), min_size=num_objectives,
                               max_size=num_objectives))  # fmt: skip
    row = st.lists(st.integers(-3, 4), min_size=num_objectives, max_size=num_objectives)
    points = draw(st.lists(row, max_size=max_points))
    reference = draw(row)
    return np.array(points, dtype=float).reshape(-1, num_objectives), reference, directions


def as_gains(values, directions):
    return np.asarray(values, dtype=float) * [1 if d == UP else -1 for d in directions]


def brute_mask(values, directions):
    gains = as_gains(values, directions)
    return [not any((b >= a).all() and (b > a).any() for b in gains) for a in gains]


def brute_hypervolume(values, reference, directions):
    """Count the unit cells between the reference and any point: coordinates are integers."""
    gains, low = as_gains(values, directions), as_gains(reference, directions)
    cells = set()
    for point in gains:
        ranges = [range(int(a), int(b)) for a, b in zip(low, point, strict=True)]
        cells.update(itertools.product(*ranges))
    return len(cells)


@given(problems())
@settings(max_examples=150)
def test_mask_equals_brute_force(problem):
    values, _, directions = problem
    assert non_dominated_mask(values, directions).tolist() == brute_mask(values, directions)


@given(problems())
@settings(max_examples=150)
def test_hypervolume_equals_counting_cells(problem):
    values, reference, directions = problem
    expected = brute_hypervolume(values, reference, directions)
    assert hypervolume(values, reference, directions) == pytest.approx(expected, abs=1e-9)


@given(problems(), st.integers(0, 2**32 - 1))
@settings(max_examples=60)
def test_order_and_dominated_points_change_nothing(problem, seed):
    values, reference, directions = problem
    order = np.random.default_rng(seed).permutation(len(values))
    mask = non_dominated_mask(values, directions)
    assert non_dominated_mask(values[order], directions).tolist() == mask[order].tolist()
    whole = hypervolume(values, reference, directions)
    assert hypervolume(values[mask], reference, directions) == pytest.approx(whole)


def test_duplicates_of_a_front_point_are_all_kept():
    values = [[0.7, 10], [0.7, 10], [0.6, 10], [0.5, 5], [-0.0, 5]]
    assert non_dominated_mask(values, [UP, DOWN]).tolist() == [True, True, False, True, False]


def test_signed_zeros_are_equal():
    assert non_dominated_mask([[0.0, 1], [-0.0, 1]], [UP, DOWN]).tolist() == [True, True]


@pytest.mark.parametrize(("up", "down"), [(UP, DOWN), ("max", "min")])
def test_hypervolume_worked_by_hand(up, down):
    # From (0, 10): 0.5 x (10 - 4) and, above 0.5, another 0.2 x (10 - 7).
    values = [[0.5, 4], [0.7, 7], [0.9, 11]]
    assert hypervolume(values, [0, 10], [up, down]) == pytest.approx(0.5 * 6 + 0.2 * 3)


def test_one_objective():
    assert non_dominated_mask([[1], [3], [3]], [UP]).tolist() == [False, True, True]
    assert hypervolume([[1], [3]], [0.5], [UP]) == pytest.approx(2.5)


def test_relative_hypervolume_is_free_of_units():
    directions = [UP, DOWN]
    ms = relative_hypervolume([[0.5, 50]], [0, 100], directions, ideal_point=[1, 0])
    s = relative_hypervolume([[0.5, 0.05]], [0, 0.1], directions, ideal_point=[1, 0])
    assert ms == pytest.approx(0.25)
    assert s == pytest.approx(0.25)


def test_relative_hypervolume_of_an_empty_box_is_zero():
    assert relative_hypervolume([[1, 5]], [1, 5], [UP, DOWN], ideal_point=[1, 0]) == 0.0


@pytest.mark.parametrize("empty", [[], np.empty((0, 2))])
def test_no_points(empty):
    assert non_dominated_mask(empty, [UP, DOWN]).shape == (0,)
    assert hypervolume(empty, [0, 1], [UP, DOWN]) == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_row_is_named(bad):
    with pytest.raises(ValueError, match="row 1"):
        non_dominated_mask([[1, 2], [bad, 2]], [UP, DOWN])
    with pytest.raises(ValueError, match="row 1"):
        hypervolume([[1, 2], [3, bad]], [0, 1], [UP, DOWN])
    with pytest.raises(ValueError, match="reference_point"):
        hypervolume([[1, 2]], [0, bad], [UP, DOWN])


@pytest.mark.parametrize(
    ("values", "directions", "message"),
    [
        ([[1, 2, 3]], [UP, DOWN], r"\(N, 2\)"),
        ([1, 2], [UP, DOWN], r"\(N, 2\)"),
        ([[1, 2]], [UP, "up"], "'up'"),
        ([[1, 2]], "maximize", "sequence"),
        ([[1, 2]], [], "sequence"),
    ],
)
def test_wrong_shapes_and_directions(values, directions, message):
    with pytest.raises(ValueError, match=message):
        non_dominated_mask(values, directions)


def test_wrong_reference_shape():
    with pytest.raises(ValueError, match="reference_point"):
        hypervolume([[1, 2]], [0, 1, 2], [UP, DOWN])
