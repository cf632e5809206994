import importlib
import json
import os
from dataclasses import replace

import pytest
from rich.console import Console

from search.command_line import parse_arguments
from search.recipes import streets
from trainables.process.device_lock import DeviceLock

REFERENCE = {"miou": 0.0, "latency_ms": 10.0, "num_params": 100.0}


@pytest.fixture
def search_cost():
    return importlib.import_module("search_cost")


@pytest.fixture
def curves(search_cost):
    """The plain script gets to its hypervolume at 400 s, ours beyond it at 100 s."""

    def point(wall, steps, miou):
        metrics = {"miou": miou, "latency_ms": 5.0, "num_params": 50.0}
        return search_cost.Point(wall, 2 * wall, steps, metrics)

    return [
        search_cost.Curve(search_cost.PLAIN, 0, [point(200, 50, 0.2), point(400, 100, 0.4)],
                          REFERENCE),
        search_cost.Curve("ours", 0, [point(50, 20, 0.3), point(100, 25, 0.5),
                                      point(160, 40, 0.1)], REFERENCE),
        search_cost.Curve("no bound", 0, [point(80, 50, 0.3)], REFERENCE),
    ]  # fmt: skip


def test_costs_are_compared_where_the_plain_hypervolume_is_reached(search_cost, curves):
    ends, arrivals = search_cost.compare_costs([curves[1]], curves)
    assert ends == [[2.5], [2.5], [2.5]]
    assert arrivals == [[4.0], [4.0], [4.0]]
    ends, arrivals = search_cost.compare_costs([curves[2]], curves)
    assert ends == [[5.0], [5.0], [2.0]]
    assert arrivals == [[], [], []]
    console = Console(record=True, width=200)
    search_cost.report(curves, console)
    text = console.export_text()
    assert "0 of 1" in text
    assert "never" in text


def test_the_mean_over_the_seeds_counts_the_unlucky_too(search_cost, curves):
    plain, ours = curves[:2]
    again = [plain._replace(seed=1), ours._replace(seed=1, points=ours.points[:1])]
    arrivals = search_cost.compare_costs([ours, again[1]], [*curves, *again])[1]
    assert arrivals == [[4.0], [4.0], [4.0]]
    # Means of ours: 0.3 at 50 s and 0.4, the goal, at 100 s.
    assert search_cost.compare_means([ours, again[1]], [*curves, *again]) == [4.0, 4.0, 4.0]
    assert search_cost.compare_means([curves[2]], curves) == [None, None, None]
    assert search_cost.compare_means([plain], curves) == [1.0, 1.0, 1.0]


def test_a_pipeline_pays_for_the_stages_that_it_computed(search_cost):
    config = replace(streets(), rungs=(0.5,))
    sparse, distil = config.pipeline.sparse.num_steps, config.pipeline.distil.num_steps
    shared = {"seconds/sparse": "0.0", "miou@0.5": "", "miou": ""}
    assert search_cost.count_steps(config, shared) == 0
    paid = {**shared, "seconds/sparse": "3.5"}
    assert search_cost.count_steps(config, paid) == sparse
    paused = {**paid, "miou@0.5": "0.3"}
    assert search_cost.count_steps(config, paused) == sparse + 0.5 * distil
    assert search_cost.count_steps(config, {**paused, "miou": "0.4"}) == sparse + distil


def test_a_pipeline_costs_nothing_before_its_first_stage(search_cost):
    starts = {
        "pruned-1": search_cost.Start("10:05", 2.0),
        "distilled-1": search_cost.Start("10:08", 9.0),
    }
    folders = {"stage/pruned": "pruned-1", "stage/distilled": "distilled-1"}
    link = {**folders, "started_at": "10:00", "seconds/pruned": "2.0", "seconds/distilled": "9.0"}
    assert search_cost.find_start(link, starts) == "10:05"
    shared = {**link, "seconds/pruned": "0.0"}  # its fine-tuning may have begun before, and paused
    assert search_cost.find_start(shared, starts) == "10:00"


def test_a_stage_that_no_pipeline_is_charged_for_counts_once(search_cost, tmp_path):
    moments = {"dense-1": (1000.0, 8.0), "latency-1": (2000.0, 1.5), "latency-2": (3000.0, 2.0)}
    for folder, (moment, seconds) in moments.items():
        path = tmp_path / "stages" / folder / "result.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps({"result": {"seconds": seconds}}))
        os.utime(path, (moment, moment))
    (tmp_path / "stages" / "distilled-1.partial").mkdir()
    found = {"stage/dense": "dense-1", "seconds/dense": "0.0", "stage/latency": "latency-1"}
    rows = [{**found, "seconds/latency": "0.0"},  # it was measured ahead
            {**found, "stage/latency": "latency-2", "seconds/latency": "2.0"}]  # fmt: skip
    starts = search_cost.read_starts(tmp_path)
    assert sorted(search_cost.list_common(rows, starts)) == [
        ("1970-01-01T00:16:32+00:00", 8.0), ("1970-01-01T00:33:18+00:00", 1.5),
    ]  # fmt: skip


def test_an_interrupted_benchmark_goes_on_with_its_own_flags_alone(search_cost, curves, tmp_path):
    arguments = search_cost.Arguments(output=tmp_path / "cost.json", num_pipelines=3)
    assert search_cost.read_curves(arguments) == []
    found = {"settings": {"num_pipelines": 3, "flags": []}, "study": search_cost.STUDY}
    found |= search_cost.describe_curves(curves)
    arguments.output.write_text(json.dumps(found))
    assert search_cost.read_curves(arguments) == curves
    with pytest.raises(ValueError, match="searches with num_pipelines 3"):
        search_cost.read_curves(replace(arguments, num_pipelines=4))


def test_every_way_is_flags_of_the_product(search_cost):
    studies = {
        way: parse_arguments([search_cost.RECIPE, *search_cost.STUDY, *flags]).study
        for way, (flags, _) in search_cost.WAYS.items()
    }
    assert studies["ours"].shared_prefix
    assert not studies["nothing shared"].shared_prefix
    assert studies["ours"].continuation
    assert not studies["no continuation"].continuation
    assert studies["ours"].begin_with_sweeps
    assert not studies["no first chain"].begin_with_sweeps
    assert studies["ours"].reuse_workers
    assert not studies["fresh processes"].reuse_workers
    assert not studies["no bound"].stop_hopeless
    assert studies["ours"].rungs == ()
    assert studies["rungs"].rungs == (0.34,)
    assert studies["one thread"].cpus_per_trial == 1
    assert studies["one at a time"].max_concurrent == 1
    assert studies["live teacher"].pipeline.teacher_logits.source == "live"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ways": ("theirs",)}, "ways must be among ours; .*got theirs"),
        ({"seeds": (1, 1)}, "seeds"),
    ],
)
def test_wrong_flags_are_named(search_cost, given, message):
    with pytest.raises(ValueError, match=message):
        search_cost.Arguments(**given)


TINY = (
    "--pipeline.data.name", "synthetic", "--pipeline.data.size", "64", "64",
    "--pipeline.data.num-samples", "4", "--pipeline.data.augmentation.crop-size", "64", "64",
    "--pipeline.dense.num-steps", "4", "--pipeline.sparse.num-steps", "2",
    "--pipeline.distil.num-steps", "1", "--pipeline.latency.max-seconds", "0.05",
)  # fmt: skip


@pytest.mark.slow
def test_the_sweep_prunes_its_own_networks_further(search_cost, tmp_path, monkeypatch):
    monkeypatch.setattr(search_cost, "SWEEP_RATIOS", (0.2, 0.5))
    # Not the machine's lock: it would wait for whatever else trains there.
    monkeypatch.setattr(search_cost, "DeviceLock", lambda device: DeviceLock(device, tmp_path))
    curve = search_cost.run_sweep(search_cost.Arguments(flags=TINY), 0, tmp_path)
    first, second = curve.points
    assert (first.steps, second.steps) == (4 + 2 + 1, 4 + 2 + 2 * 1)
    assert second.metrics["num_params"] < first.metrics["num_params"]
    assert first.metrics["num_params"] < curve.reference["num_params"]
    assert first.stage_seconds < second.stage_seconds
    stages = [path.name.partition("-")[0] for path in (tmp_path / "sweep").iterdir()]
    assert stages.count("sparse") == 1
    assert stages.count("pruned") == stages.count("distilled") == 2


def test_each_opponent_is_compared_with(search_cost, curves):
    careful = curves[0]._replace(way=search_cost.CAREFUL, points=curves[0].points[:1])
    arrivals = search_cost.compare_costs([curves[1]], [*curves, careful], search_cost.CAREFUL)[1]
    assert arrivals == [[4.0], [4.0], [2.5]]
    console = Console(record=True, width=200)
    search_cost.report([*curves, careful], console)
    assert "times less than the careful script" in console.export_text()
