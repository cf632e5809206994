from __future__ import annotations

from search.accuracy_bound import bound_miou, find_dominating

OBJECTIVES = ("miou", "latency_ms", "num_params")


def network(size: float, miou: float | None = None) -> dict[str, float]:
    costs = {"latency_ms": 10 * size, "num_params": 100 * size, "macs": 1000 * size}
    return costs if miou is None else {**costs, "miou": miou}


LARGER = [network(8, 0.50), network(7, 0.40), network(6, 0.46)]


def test_the_bound_by_hand():
    assert bound_miou(network(5), LARGER, ceiling=0.9) == 0.50 + (0.50 - 0.46)
    close = [network(8, 0.500), network(7, 0.499), network(6, 0.498)]
    assert bound_miou(network(5), close, ceiling=0.9) == 0.51


def test_without_larger_witnesses_only_the_ceiling_is_known():
    assert bound_miou(network(5), [], ceiling=0.7) == 0.7
    assert bound_miou(network(5), LARGER[:2], ceiling=0.7) == 0.7
    assert bound_miou(network(6.5), LARGER, ceiling=0.7) == 0.7
    # More parameters but less work is no larger network.
    odd = {**network(9, 0.5), "macs": 1.0}
    assert bound_miou(network(5), [*LARGER[:2], odd], ceiling=0.7) == 0.7


def test_a_network_is_hopeless_only_behind_a_cheaper_one_above_its_bound():
    finished = dict(enumerate(LARGER))
    assert find_dominating(network(5), finished, OBJECTIVES, 0.9) is None
    finished[3] = network(4, 0.53)
    assert find_dominating(network(5), finished, OBJECTIVES, 0.9) is None
    finished[4] = network(3, 0.55)
    assert find_dominating(network(5), finished, OBJECTIVES, 0.9) == (4, 0.54)
    # Any cost in which it is better keeps it alive.
    light = {**network(5), "num_params": 50.0}
    assert find_dominating(light, finished, OBJECTIVES, 0.9) is None
    assert find_dominating(light, finished, ("miou", "latency_ms"), 0.9) == (4, 0.54)


def test_without_accuracy_among_the_objectives_nothing_is_bounded():
    finished = dict(enumerate([*LARGER, network(1, 0.9)]))
    assert find_dominating(network(5), finished, ("latency_ms", "macs"), 0.9) is None
