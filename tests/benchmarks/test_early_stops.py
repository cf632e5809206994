import importlib
import json
from dataclasses import replace

import pytest

from search.config import save_config
from search.pipelines.study import PipelineStudy
from search.recipes import streets
from trainables.pipeline import StageResult

REFERENCE = {"miou": 0.0, "latency_ms": 10.0, "num_params": 100.0}


def network(latency_ms, miou=None):
    metrics = {"latency_ms": latency_ms, "num_params": 50.0, "miou_pruned": 0.01}
    return metrics if miou is None else {**metrics, "miou": miou}


@pytest.fixture
def study(tmp_path):
    """Trial 0 is finished; 1 to 4 were stopped: by the bound, at a rung, by a limit."""
    config = replace(streets(), num_pipelines=5, sampler="random", cache_dir=tmp_path / "cache")
    save_config(config, tmp_path / "config.json")
    objectives = [{"name": name, "reference": value} for name, value in REFERENCE.items()]
    (tmp_path / "metadata.json").write_text(json.dumps({"objectives": objectives}))
    study = PipelineStudy(config, tmp_path)
    believed = "even with mIoU {}, the best believable, trial 0 would dominate it"
    ends = [
        ("complete", "", "", network(5.0, 0.5)),
        ("stopped", "bound", believed.format("0.450"), network(6.0)),
        ("stopped", "bound", believed.format("0.400"), network(7.0)),
        ("stopped", "rung", "behind the front at 34% of its distillation", network(6.0)),
        ("stopped", "limit", "latency_ms 11 is above its limit 9", network(11.0)),
    ]
    for outcome, stopped_by, reason, metrics in ends:
        result = StageResult(metrics=metrics)
        study.tell(study.ask().number, outcome, reason=reason, stopped_by=stopped_by, result=result)
    return study


@pytest.fixture
def early_stops(study, monkeypatch):
    """With what the stopped networks come to: the first beyond its bound, and into the front."""
    module = importlib.import_module("early_stops")
    chains = [study.get_chain(number) for number in study.records]

    def run_stage(config, chain, store, context):
        assert chain[-1].stage == "distilled"
        number = chains.index(chain)  # with the networks that it continues
        return StageResult(metrics={"miou": {1: 0.6, 2: 0.3, 3: 0.45}[number]})

    monkeypatch.setattr(module, "run_stage", run_stage)
    return module


def test_stopped_networks_are_finished_and_compared_with_the_front(
    tmp_path, early_stops, capsys
) -> None:
    journal = (tmp_path / "study.journal").read_bytes()
    output = tmp_path / "early_stops.json"
    assert early_stops.main(["--run-dirs", str(tmp_path), "--output", str(output)]) == 0
    (outcome,) = json.loads(output.read_text())["runs"]
    assert outcome["num_finished"] == 1
    assert [tuple(stop.values()) for stop in outcome["stops"]] == [
        (1, "bound", 0.6, 0.45, True),
        (2, "bound", 0.3, 0.4, False),
        (3, "rung", 0.45, None, False),
    ]
    assert outcome["hypervolume"] == pytest.approx(0.5 * 0.5 * 0.5)
    assert outcome["hypervolume_of_all"] == pytest.approx(0.125 + 0.1 * 0.4 * 0.5)
    assert (tmp_path / "study.journal").read_bytes() == journal
    table = capsys.readouterr().out
    assert "1 of 2" in table
    assert "0 of 1" in table


def test_the_bound_is_asked_about_every_network(early_stops) -> None:
    def measure(size, miou):
        return {"miou": miou, "latency_ms": size, "num_params": size, "macs": size}

    objectives = ("miou", "latency_ms", "num_params")
    growing = [measure(size, 0.1 + 0.01 * size) for size in range(1, 41)]
    replays = early_stops.replay_bound(growing, objectives)
    assert list(replays) == ["latency_ms + num_params", "latency_ms", "num_params"]
    assert {tuple(replay) for replay in replays.values()} == {(20 * 31, 0, 0)}
    behind = [measure(1, 0.6), *(measure(size, 0.4) for size in range(2, 41))]
    for judged, stopped, wrong in early_stops.replay_bound(behind, objectives).values():
        assert judged == 20 * 31
        assert 0 < stopped < judged
        assert wrong == 0


def test_a_run_that_is_not_over_is_refused(tmp_path, early_stops, capsys) -> None:
    config = replace(streets(), num_pipelines=9, cache_dir=tmp_path / "cache")
    save_config(config, tmp_path / "config.json")
    assert early_stops.main(["--run-dirs", str(tmp_path)]) == 2
    assert "whose search has finished; that of" in " ".join(capsys.readouterr().out.split())
