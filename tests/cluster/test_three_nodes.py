"""A study on three nodes, all of them on this machine, of which some are broken meanwhile."""

from __future__ import annotations

import csv
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Long enough for all faults. Every pipeline needs the teacher, so it trains beside the student, and
# the first faults find stages on several nodes.
LONGER = ("--pipeline.sparse.num-steps", "1000", "--space.distiller", "dkd")

pytestmark = [pytest.mark.ray, pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def three_nodes(_benchmarks_importable: None) -> Iterator[Any]:
    cluster = importlib.import_module("fault_clusters").LocalCluster(
        kinds=("raylet", "preemption", "link")
    )
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_nodes_killed_taken_back_and_out_of_reach_change_nothing(
    three_nodes: Any,
    tiny_study: list[str],
    read_results: Callable[[Path], list[dict[str, Any]]],
    tmp_path: Path,
) -> None:
    breaker, stage_watch = map(importlib.import_module, ("study_breaker", "stage_watch"))
    session = breaker.Session(
        cluster=three_nodes,
        folder=tmp_path / "study",
        flags=[*tiny_study, *LONGER, "--keep", "front", "--cache-dir", str(tmp_path / "cache")],
        num_pipelines=3,
        most_drivers=1,
    )
    try:
        session.start()
        with stage_watch.StageWatch(session.run_dir) as watch:
            breakers = breaker.Breaker(session, watch, cut_seconds=16.0, pause_seconds=2.0, seed=0)
            faults = list(breakers.break_all(3, num_pipelines=1))
            assert session.drivers[-1].wait(timeout=600) == 0, session.log.read_text()
    finally:
        session.end()
    assert {fault.kind for fault in faults} == {"raylet", "preemption", "link"}
    assert all(fault.recovery_seconds is not None for fault in faults), faults
    # A stage whose node does not answer may still end well.
    assert all(fault.victims for fault in faults if fault.kind != "link"), faults
    results = read_results(session.run_dir)  # every pipeline is complete, and there once
    victims = [victim.stage for fault in faults for victim in fault.victims]
    computed = [attempt.stage for attempt in watch.attempts if not attempt.found]
    twice = [stage for stage in set(computed) if computed.count(stage) > 1 + victims.count(stage)]
    assert not twice, (faults, watch.attempts, session.log.read_text())
    assert not list(session.run_dir.glob("stages/*.damaged-*"))
    with (session.run_dir / "report" / "front.csv").open() as file:
        kept = {row["trial"] for row in csv.DictReader(file)}
    trials = {row["trial"]: row for row in breaker.read_trials(session.run_dir)}
    for number in sorted(kept):  # the networks that those of the front continue are kept too
        while number := trials[number]["continues"]:
            kept.add(number)
    for number, row in trials.items():
        is_there = (session.run_dir / "stages" / row["stage/distilled"]).is_dir()
        assert is_there == (number in kept)
    # Nodes of one machine have one address, so Ray says where each process was.
    places = three_nodes.places()
    assert len({places[result["pid"]] for result in results}) >= 3
