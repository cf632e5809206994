from __future__ import annotations

import pytest

from search.pipelines.successive_halving import SuccessiveHalving


def halving(num_rungs: int = 1, reduction_factor: float = 2) -> SuccessiveHalving[int]:
    return SuccessiveHalving(
        num_rungs,
        reduction_factor=reduction_factor,
        directions={"miou": "maximize", "latency_ms": "minimize"},
    )


def at(miou: float, latency_ms: float) -> dict[str, float]:
    return {"miou": miou, "latency_ms": latency_ms}


def promote_all(halving: SuccessiveHalving[int]) -> list[int]:
    return list(iter(halving.promote, None))


def test_the_front_goes_on():
    rung = halving()
    for number, point in enumerate([at(0.5, 10), at(0.4, 20), at(0.3, 5), at(0.2, 30)]):
        rung.report(number, 0, point)
    assert sorted(promote_all(rung)) == [0, 2]


def test_nobody_goes_on_before_the_rung_has_room():
    rung = halving(reduction_factor=3)
    rung.report(0, 0, at(0.5, 10))
    rung.report(1, 0, at(0.4, 20))
    assert rung.promote() is None
    rung.report(2, 0, at(0.3, 30))
    assert promote_all(rung) == [0]


def test_one_that_paused_goes_on_when_the_rung_grows():
    rung = halving()
    for number, point in enumerate([at(0.5, 10), at(0.45, 11)]):
        rung.report(number, 0, point)
    assert promote_all(rung) == [0]
    for number, point in enumerate([at(0.2, 12), at(0.1, 13)], start=2):
        rung.report(number, 0, point)
    assert promote_all(rung) == [1]


def test_within_a_rank_the_lonely_point_counts_more():
    rung = halving(reduction_factor=4)
    points = [at(0.5, 10.0), at(0.499, 9.9), at(0.498, 9.8), at(0.1, 1.0)]
    for number, point in enumerate(points):
        rung.report(number, 0, point)
    assert promote_all(rung) == [3]


def test_higher_rungs_come_first():
    rungs = halving(num_rungs=2)
    for number in range(4):
        rungs.report(number, 0, at(0.5 - number / 10, 10))
    assert promote_all(rungs) == [0, 1]
    for number in range(2):
        rungs.report(number, 1, at(0.6 - number / 10, 10))
    for number in range(4, 6):
        rungs.report(number, 0, at(0.9, 10))
    assert promote_all(rungs) == [0, 4]


def test_last_in_order_is_the_worst_of_the_lowest_rung():
    rungs = halving(num_rungs=2)
    for number, point in enumerate([at(0.5, 10), at(0.1, 30), at(0.4, 20), at(0.05, 40)]):
        rungs.report(number, 0, point)
    rungs.report(3, 1, at(0.06, 40))
    assert rungs.find_last([0, 1, 2, 3]) == 1
    assert rungs.find_last([0, 2]) == 2
    assert rungs.find_last([3]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2), "num_rungs must be at least 1, got 0"),
        ((1, 1), "reduction_factor must be greater than 1"),
    ],
)
def test_bad_values_are_named(arguments: tuple[int, float], message: str):
    with pytest.raises(ValueError, match=message):
        halving(*arguments)


def test_members_that_pass_by_themselves_take_no_promotion_from_others():
    rung = halving(reduction_factor=1.5)
    for number, miou in enumerate((0.5, 0.6, 0.4)):
        rung.report(number, 0, at(miou, 10))
    rung.note_passed(0, 0)
    rung.note_passed(1, 0)
    assert promote_all(rung) == []  # the last of three is not among the best two
    rung.report(3, 0, at(0.7, 10))
    assert promote_all(rung) == [3]
