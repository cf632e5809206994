"""Latency beside a reference: the order and the ratio of networks outlast a machine's moods."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest
from torch import Tensor, nn

from models.engines import pytorch
from models.latency import Latency, Reference, measure_latency
from models.timing import timed_runs

STEP_SECONDS = 2.5e-4
REFERENCE_MS = 80.0


class Machine:
    """Stands for the module `time`: a clock of its own, and a speed at every moment of it.

    Args:
        speed: Seconds since the start -> work done per second, 1 where nothing disturbs.
    """

    def __init__(self, speed: Callable[[float], float]) -> None:
        self.speed = speed
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def perf_counter_ns(self) -> int:
        return round(1e9 * self.now)

    def work(self, seconds: float) -> None:
        """Do what takes so long at speed 1."""
        while seconds > 0:
            speed = self.speed(self.now)
            if seconds <= speed * STEP_SECONDS:
                self.now += seconds / speed
                return
            self.now += STEP_SECONDS
            seconds -= speed * STEP_SECONDS


class Network(nn.Module):
    """Takes so long on an undisturbed machine."""

    def __init__(self, machine: Machine, cost_ms: float) -> None:
        super().__init__()
        self.machine, self.cost_ms = machine, cost_ms

    def __deepcopy__(self, memo: dict[int, object]) -> Network:
        return self

    def forward(self, images: Tensor) -> Tensor:
        self.machine.work(self.cost_ms / 1e3)
        return images


def measure(
    speed: Callable[[float], float], cost_ms: float, monkeypatch: pytest.MonkeyPatch, **options: Any
) -> Latency:
    machine = Machine(speed)
    monkeypatch.setattr(timed_runs, "time", machine)
    monkeypatch.setattr(pytorch, "time", machine)
    reference = Reference(Network(machine, REFERENCE_MS), REFERENCE_MS)
    network = Network(machine, cost_ms)
    return measure_latency(network, (3, 4, 4), reference=reference, max_seconds=20.0, **options)


def idle(now: float) -> float:
    return 1.0


def slow(now: float) -> float:
    return 1 / 1.5


def test_an_idle_machine_needs_no_correction(monkeypatch: pytest.MonkeyPatch):
    latency = measure(idle, 60.0, monkeypatch)
    assert latency.median_ms == pytest.approx(60, rel=1e-3)
    assert latency.raw_ms == pytest.approx(60, rel=1e-3)
    assert latency.reference_ms == pytest.approx(REFERENCE_MS, rel=1e-3)
    assert latency.nominal_ms == REFERENCE_MS
    assert latency.p95_ms == pytest.approx(60, rel=1e-3)
    assert latency.is_precise
    assert json.loads(json.dumps(asdict(latency)))["clocks"].keys() >= {"cpu_mhz"}


def test_a_drift_between_two_measurements_changes_neither_order_nor_ratio(
    monkeypatch: pytest.MonkeyPatch,
):
    pruned = measure(slow, 60.0, monkeypatch)
    dense = measure(idle, 84.0, monkeypatch)
    assert pruned.raw_ms > dense.raw_ms  # what the clock shows is in the wrong order
    assert pruned.raw_ms == pytest.approx(90, rel=0.01)
    assert pruned.reference_ms == pytest.approx(1.5 * REFERENCE_MS, rel=0.01)
    assert pruned.median_ms / dense.median_ms == pytest.approx(60 / 84, rel=0.02)
    low, high = pruned.interval_ms
    assert low <= pruned.median_ms <= high
    assert pruned.p95_ms == pytest.approx(60, rel=0.02)


@pytest.mark.parametrize("cost_ms", [1.0, 12.0, 60.0, 300.0])
@pytest.mark.parametrize(
    "speed",
    [
        lambda now: 1 - 0.5 * min(now, 10.0) / 10.0,  # ever slower
        lambda now: 1.0 if now < 3.0 else 1 / 1.5,  # slow from a moment on
        lambda now: 1.0 if now % 2.0 < 1.0 else 1 / 1.5,  # slow every other second
    ],
    ids=["ever slower", "slow at once", "now and then"],
)
def test_a_drift_within_a_measurement_is_left_out(
    speed: Callable[[float], float], cost_ms: float, monkeypatch: pytest.MonkeyPatch
):
    latency = measure(speed, cost_ms, monkeypatch)
    assert latency.median_ms == pytest.approx(cost_ms, rel=0.02)


def share_core(slice_seconds: float) -> Callable[[float], float]:
    """A tenant of the same core who takes every other time slice, of unequal lengths."""
    draw = random.Random(0)
    ends = [0.0]
    while ends[-1] < 300:
        ends.append(ends[-1] + slice_seconds * draw.uniform(0.5, 1.5))
    place = [0]

    def speed(now: float) -> float:
        while ends[place[0] + 1] <= now:
            place[0] += 1
        return float(place[0] % 2)

    return speed


@pytest.mark.parametrize("cost_ms", [3.0, 60.0])
def test_a_co_tenant_does_not_change_the_figure(cost_ms: float, monkeypatch: pytest.MonkeyPatch):
    latency = measure(share_core(0.004), cost_ms, monkeypatch, relative_margin=0.01)
    assert latency.raw_ms > 1.5 * cost_ms
    assert latency.median_ms == pytest.approx(cost_ms, rel=0.02)


def test_runs_that_take_longer_than_they_state_fill_their_turns(monkeypatch: pytest.MonkeyPatch):
    machine = Machine(idle)
    monkeypatch.setattr(timed_runs, "time", machine)

    def ask_trtexec() -> float:
        machine.work(1.5)
        return 2.0

    precision = timed_runs.Precision(0.95, 0.02, 20, 1000, 20.0)
    timing = timed_runs.time_runs(ask_trtexec, precision, ask_trtexec, 7.0)
    assert timing.median_ms == pytest.approx(7.0)
    assert timing.raw_ms == 2.0
    assert machine.now < 60  # of which the warm-up takes 21 s


def test_a_nominal_latency_must_be_one(monkeypatch: pytest.MonkeyPatch):
    for nominal_ms in (0.0, float("nan"), float("inf")):
        reference = Reference(nn.Identity(), nominal_ms)
        with pytest.raises(ValueError, match=r"reference\.nominal_ms must be above 0 and finite"):
            measure_latency(nn.Identity(), (3, 4, 4), reference=reference)


def test_two_equal_networks_are_equally_fast():
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.Conv2d(16, 16, 3))
    reference = Reference(model, 7.0)
    latency = measure_latency(
        model, (3, 64, 64), num_threads=1, fold_batchnorm=True, max_seconds=2.0, reference=reference
    )
    assert latency.median_ms == pytest.approx(7.0, rel=0.2)
    assert model.training
