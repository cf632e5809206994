import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.channels.sensitivity import GroupSensitivity, Sensitivity, count_by_sensitivity


def make_group(name, size, losses, ratios=(0.25, 0.5, 0.75), macs=10):
    return GroupSensitivity(
        name=name, size=size, macs=macs, ratios=ratios, losses=losses, mious=(0.5,) * len(losses)
    )


def make_scan(*groups, loss=1.0):
    return Sensitivity(
        loss=loss,
        miou=0.6,
        num_images=2,
        groups=groups,
        joint_ratios=(0.1,),
        joint_mious=(0.5,),
        seconds=1.0,
        warnings=("careful",),
    )


def test_channels_go_where_they_cost_the_least():
    # Per channel: a costs 0.01, then 0.1, 0.3 and (as before) 0.3 nats; b 0.05 each.
    scan = make_scan(make_group("a", 4, (1.01, 1.11, 1.41)), make_group("b", 4, (1.05, 1.10, 1.15)))
    assert count_by_sensitivity(scan, 0.125) == [3, 4]
    assert count_by_sensitivity(scan, 0.25) == [3, 3]
    assert count_by_sensitivity(scan, 0.5) == [3, 1]
    assert count_by_sensitivity(scan, 0.625) == [2, 1]
    assert count_by_sensitivity(scan, 0.75) == [1, 1]


def test_channels_that_save_more_may_cost_more():
    # Per channel both cost 0.1 nats; those of b save three times as much.
    losses = (1.1, 1.2, 1.3)
    scan = make_scan(make_group("a", 4, losses, macs=10), make_group("b", 4, losses, macs=30))
    assert count_by_sensitivity(scan, 0.3) == [4, 2]  # 60 of 160 where 48 were to go
    assert count_by_sensitivity(scan, 0.6) == [3, 1]  # 100 of 160 where 96 were to go


def test_a_loss_that_falls_costs_nothing():
    scan = make_scan(make_group("a", 4, (0.9, 0.8, 0.7)), make_group("b", 4, (1.1, 1.2, 1.3)))
    assert count_by_sensitivity(scan, 0.375) == [1, 4]


def test_groups_that_cost_nothing_narrow_evenly():
    scan = make_scan(*(make_group(name, 8, (1.0, 1.0, 1.0)) for name in "ab"))
    assert count_by_sensitivity(scan, 0.5) == [4, 4]


def test_a_cliff_is_seen_from_before_it():
    # Convex from below: the steep third quarter of a does not hide that half of it is free.
    scan = make_scan(make_group("a", 4, (1.0, 1.0, 3.0)), make_group("b", 4, (1.1, 1.2, 1.3)))
    assert count_by_sensitivity(scan, 0.25) == [2, 4]
    assert count_by_sensitivity(scan, 0.5) == [2, 2]


def test_a_group_of_one_channel_stays():
    scan = make_scan(make_group("a", 1, (), ratios=()), make_group("b", 4, (1.1, 1.2, 1.3)))
    assert count_by_sensitivity(scan, 0.4) == [1, 2]


losses = st.lists(st.floats(0.5, 5.0), min_size=3, max_size=3).map(tuple)


@given(
    st.lists(st.tuples(st.integers(2, 40), losses), min_size=1, max_size=5),
    st.floats(0.01, 0.87),
    st.floats(0.01, 0.87),
)
def test_counts_are_possible_and_fall_with_the_ratio(groups, one, other):
    scan = make_scan(*(make_group(str(i), size, values) for i, (size, values) in enumerate(groups)))
    low, high = sorted((one, other))
    fewer, more = count_by_sensitivity(scan, high), count_by_sensitivity(scan, low)
    for group, least, most in zip(scan.groups, fewer, more, strict=True):
        assert 1 <= least <= most <= group.size
    assert sum(more) >= (1 - low) * sum(group.size for group in scan.groups) - 1


@given(st.lists(st.lists(st.floats(0, 1), min_size=4, max_size=4), min_size=2, max_size=3),
       st.integers(1, 7))  # fmt: skip
def test_convex_losses_are_shared_out_at_the_least_sum(prices, num_removed):
    curves = [list(itertools.accumulate(sorted(p), initial=1.0)) for p in prices]
    ratios = (0.25, 0.5, 0.75, 1.0)
    groups = [make_group(str(i), 4, tuple(c[1:]), ratios) for i, c in enumerate(curves)]
    kept = count_by_sensitivity(make_scan(*groups), num_removed / (4 * len(groups)))
    removed = [4 - k for k in kept]
    possible = [
        counts
        for counts in itertools.product(range(4), repeat=len(groups))
        if sum(counts) == sum(removed)
    ]
    least = min(sum(c[n] for c, n in zip(curves, counts, strict=True)) for counts in possible)
    found = sum(c[n] for c, n in zip(curves, removed, strict=True))
    assert found == pytest.approx(least)
    assert sum(removed) == min(num_removed, 3 * len(groups))


def test_a_scan_survives_its_text():
    scan = make_scan(make_group("a", 4, (1.01, 1.11, 1.41)))
    assert Sensitivity.from_json(scan.to_json()) == scan
    with pytest.raises(ValueError, match="not the scan"):
        Sensitivity.from_json('{"loss": 1}')
