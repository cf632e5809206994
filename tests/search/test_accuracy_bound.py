from __future__ import annotations

import numpy as np
import pytest

from search.pipelines.accuracy_bound import RIDGE, SIZES, FinishedNetworks

OBJECTIVES = ("miou", "latency_ms", "num_params")


def network(size: float, miou: float | None = None, shape: float = 1.0) -> dict[str, float]:
    costs = {"latency_ms": 10 * size, "num_params": 100 * size, "macs": 1000 * size * shape}
    return costs if miou is None else {**costs, "miou": miou}


def bound_miou(asked, finished, ceiling):
    return gather(dict(enumerate(finished)), OBJECTIVES).bound_miou(asked, ceiling)


def find_dominating(asked, finished, objectives, ceiling):
    return gather(finished, objectives).find_dominating(asked, ceiling)


def gather(finished, objectives) -> FinishedNetworks:
    gathered = FinishedNetworks(objectives)
    for number, metrics in finished.items():
        gathered.add(number, metrics)
    assert len(gathered) == len(finished)
    return gathered


def draw(count: int, seed: int, noise: float = 0.02) -> list[dict[str, float]]:
    generator = np.random.default_rng(seed)
    sizes = np.exp(generator.uniform(-2, 0, count))
    shapes = np.exp(generator.normal(0, 0.3, count))
    miou = 0.5 + 0.1 * np.log(sizes) + generator.normal(0, noise, count)
    return [network(*values) for values in zip(sizes, miou, shapes, strict=True)]


def fit_and_predict(known: list[dict[str, float]], asked: list[dict[str, float]]) -> np.ndarray:
    """Ridge regression over sizes that are scaled alike in every fit, slopes alone penalised."""
    everything = np.log([[entry[name] for name in SIZES] for entry in ALL])
    middle, spread = everything.mean(axis=0), everything.std(axis=0)

    def describe(entries: list[dict[str, float]]) -> np.ndarray:
        sizes = np.log([[entry[name] for name in SIZES] for entry in entries])
        return np.column_stack([np.ones(len(entries)), (sizes - middle) / spread])

    design, miou = describe(known), np.array([entry["miou"] for entry in known])
    slopes = np.vstack([design, np.sqrt(RIDGE) * np.diag([0.0, 1.0, 1.0])])
    weights = np.linalg.lstsq(slopes, np.append(miou, np.zeros(3)), rcond=None)[0]
    return describe(asked) @ weights


FINISHED = draw(12, seed=0)
ASKED = network(0.4)
ALL = [*FINISHED, ASKED]


def test_the_bound_equals_that_of_fits_which_leave_one_out():
    limits = []
    for left_out in FINISHED:
        others = [entry for entry in FINISHED if entry is not left_out]
        guess, of_asked = fit_and_predict(others, [left_out, ASKED])
        limits.append(of_asked + left_out["miou"] - guess)
    assert bound_miou(ASKED, FINISHED, ceiling=0.9) == pytest.approx(max(limits))


def test_with_few_finished_networks_only_the_ceiling_is_known():
    assert bound_miou(ASKED, [], ceiling=0.7) == 0.7
    assert bound_miou(ASKED, FINISHED[:8], ceiling=0.7) == 0.7
    assert bound_miou(ASKED, FINISHED[:9], ceiling=0.7) < 0.7
    # Fine-tuning may make a pruned network better than the uncompressed one.
    assert bound_miou(ASKED, [network(0.5, 0.71)], ceiling=0.7) == 1.0


@pytest.mark.parametrize(("count", "expected"), [(9, 0.1), (19, 0.05), (99, 0.01), (299, 0.01)])
def test_so_many_networks_exceed_the_bound(count: int, expected: float):
    exceeded = [
        last["miou"] > bound_miou(last, others, ceiling=1.0)
        for *others, last in (draw(count + 1, seed) for seed in range(1200))
    ]
    assert expected / 2 < np.mean(exceeded) < expected * 1.5


def test_networks_of_one_size_are_bounded_by_what_they_reach():
    alike = [network(1.0, 0.4 + 0.01 * number) for number in range(9)]
    assert 0.48 <= bound_miou(network(1.0), alike, ceiling=0.9) < 0.51
    assert 0.40 < bound_miou(network(2.0), alike, ceiling=0.9) <= 1.0


@pytest.mark.parametrize(("of_all", "expected"), [(3.0, 1.0), (-3.0, 0.0)])
def test_the_bound_stays_an_miou(of_all: float, expected: float):
    finished = [{**entry, "miou": entry["miou"] + of_all} for entry in FINISHED]
    assert bound_miou(ASKED, finished, ceiling=0.9) == expected


def test_a_network_is_hopeless_only_behind_a_cheaper_one_above_its_bound():
    finished = dict(enumerate(FINISHED))
    bound = bound_miou(ASKED, FINISHED, 0.9)
    assert find_dominating(ASKED, finished, OBJECTIVES, 0.9) is None
    cheaper = network(0.3, bound + 0.1)
    found = find_dominating(ASKED, finished | {20: cheaper}, OBJECTIVES, 0.9)
    assert found is None  # one of 13: the bound reaches as far as the two worst misfits
    many = dict(enumerate(draw(220, seed=1)))
    found = find_dominating(ASKED, many | {999: cheaper}, OBJECTIVES, 0.9)
    assert found is not None
    assert found[0] == 999
    assert found[1] == bound_miou(ASKED, [*many.values(), cheaper], 0.9) < cheaper["miou"]
    # Any cost in which it is better keeps it alive.
    light = {**ASKED, "num_params": 29.0}
    assert find_dominating(light, many | {999: cheaper}, OBJECTIVES, 0.9) is None
    assert find_dominating(light, many | {999: cheaper}, ("miou", "latency_ms"), 0.9) is not None


def test_without_accuracy_among_the_objectives_nothing_is_bounded():
    finished = dict(enumerate([*draw(220, seed=1), network(0.1, 0.9)]))
    assert find_dominating(ASKED, finished, ("miou", "latency_ms"), 0.9) is not None
    assert find_dominating(ASKED, finished, ("latency_ms", "macs"), 0.9) is None


def test_another_gain_may_bring_a_network_to_the_front():
    finished = dict(enumerate([*draw(220, seed=1), network(0.1, 0.9)]))
    for objectives in (("miou", "consistency"), ("miou", "latency_ms", "consistency")):
        assert find_dominating(ASKED, finished, objectives, 0.9) is None


def test_a_network_without_its_sizes_bounds_nothing():
    finished = FinishedNetworks(OBJECTIVES)
    finished.add(0, {"miou": 0.9, "latency_ms": 1.0})
    assert len(finished) == 0
    assert finished.find_dominating(ASKED, 0.9) is None
