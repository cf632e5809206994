import importlib
import io
import json
import threading
from types import SimpleNamespace

import pytest
from rich.console import Console


@pytest.fixture
def stability():
    return importlib.import_module("latency_stability")


def latency(raw_ms, stated_ms):
    return SimpleNamespace(raw_ms=raw_ms, median_ms=stated_ms)


@pytest.fixture
def measured():
    """The machine is half as fast in the second round; b was slow at one of its own, too."""
    return {
        ("a", "alone"): [latency(10.0, 10.0), latency(20.0, 10.2)],
        ("b", "alone"): [latency(8.0, 8.0), latency(16.0, 8.0)],
        ("a", "rude"): [latency(30.0, 10.1), latency(30.0, 10.1)],
        ("b", "rude"): [latency(24.0, 8.2), latency(24.0, 10.1)],
    }


def test_spread_and_change_by_hand(stability, measured):
    rows = {(r.network, r.condition, r.kind): r for r in stability.summarize(measured)}
    raw, stated = rows["a", "alone", "raw"], rows["a", "alone", "stated"]
    assert raw.median_ms == 15
    assert raw.variation == pytest.approx(50**0.5 / 15)
    assert stated.variation == pytest.approx(0.02**0.5 / 10.1)
    assert raw.change == stated.change == 0
    assert rows["a", "rude", "raw"].change == pytest.approx(1.0)
    assert rows["a", "rude", "stated"].change == pytest.approx(0)
    assert rows["b", "rude", "stated"].change == pytest.approx(9.15 / 8 - 1)


def test_pairs_in_the_wrong_order_by_hand(stability, measured):
    # a: 10 20 30 30, b: 8 16 24 24; b is not faster in 10 against three and in 20 against two.
    assert stability.count_wrong_order(measured, "raw") == (5, 16)
    # a: 10 10.2 10.1 10.1, b: 8 8 8.2 10.1: only 10.1 is not below 10 and twice 10.1.
    assert stability.count_wrong_order(measured, "stated") == (3, 16)


def test_networks_are_pruned(stability):
    sizes = [sum(p.numel() for p in stability.build(ratio).parameters()) for ratio in (0.0, 0.3)]
    assert 0 < sizes[1] < 0.7 * sizes[0]


@pytest.mark.parametrize("asks", [True, False])
def test_a_co_tenant_waits_for_the_device_if_it_asks(stability, tmp_path, asks):
    arguments = stability.Arguments(resolution=(64, 64), device="cpu")
    trains = threading.Event()
    settings = (trains, arguments, tmp_path if asks else None, 2)
    process = threading.Thread(target=stability.train, args=settings)
    with stability.DeviceLock("cpu", tmp_path).exclusive():
        process.start()
        process.join(timeout=3 if asks else 60)
        assert trains.is_set() == (not asks)
    process.join(timeout=60)
    assert trains.is_set()


@pytest.mark.slow
def test_the_whole_benchmark(stability, tmp_path):
    flags = "--resolution 64 64 --rounds 2 --max-seconds 0.2 --device cpu"
    path = tmp_path / "found.json"
    assert stability.main([*flags.split(), "--output", str(path)]) == 0
    found = json.loads(path.read_text())
    assert len(found["rows"]) == 2 * 3 * 2
    assert found["wrong_order"]["stated"][1] == 36
    assert all(len(entry["raw_ms"]) == 2 for entry in found["measured"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pruning_ratios": (0.3, 0.3)}, "must be distinct"),
        ({"pruning_ratios": (0.3, 1.0)}, "must be at least 0 and below 1"),
        ({"conditions": ("rude",)}, "distinct and include alone"),
        ({"rounds": 1}, "rounds must be at least 2"),
    ],
)
def test_bad_flags_are_named(stability, change, message):
    with pytest.raises(ValueError, match=message):
        stability.Arguments(**change)


def test_the_table_names_every_condition(stability, measured):
    stream = io.StringIO()
    stability.print_table(stability.summarize(measured), Console(file=stream, width=120))
    assert "rude" in stream.getvalue()
    assert "+100.0%" in stream.getvalue()
