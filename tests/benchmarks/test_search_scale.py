import importlib
import json
from dataclasses import replace

import pytest
from rich.console import Console

from search.pipelines.records import TrialRecord
from search.run_files.results import write_trials
from trainables.chain import make_settings


@pytest.fixture
def search_scale():
    return importlib.import_module("search_scale")


@pytest.fixture
def simulated_pipelines():
    return importlib.import_module("simulated_pipelines")


def test_every_method_ends_every_pipeline_and_sharing_saves_training(search_scale):
    arguments = search_scale.Arguments(sampler="random")
    results = search_scale.compare_with_plain(
        [
            search_scale.simulate(search_scale.Setting(arguments, method, 24, 4, 0))
            for method in search_scale.METHODS
        ]
    )
    by_method = {result["method"]: result for result in results}
    for result in results:
        assert sum(result["states"].values()) == 24
        assert 0 < result["utilisation"] <= 1
        assert 0 < result["hypervolume"] < 1
        assert 0 < result["journal_share"] < 1
        wrong = result["stopped"].values()
        assert all(0 <= cause["wrong"] <= cause["stopped"] for cause in wrong)
        volumes = [point[2] for point in result["curve"]]
        assert volumes == sorted(volumes)
    plain = by_method["plain"]
    assert plain["states"] == {"complete": 24}
    assert plain["num_stages"] == 26
    assert plain["relative_time"] == plain["relative_training"] == 1
    assert by_method["no-cheap-first"]["stopped"]["bound"]["stopped"] == 0
    # Rungs at 0.25 and 0.5: most pipelines pay for a quarter of their distillation.
    assert by_method["ours"]["training_hours"] < 0.75 * plain["training_hours"]
    assert by_method["ours"]["states"] == by_method["random"]["states"]  # the same sampler here
    console = Console(record=True, width=200)
    search_scale.print_costs(results, console)
    search_scale.print_worth(results, console)
    assert "no-cheap-first" in console.export_text()
    json.dumps(results, allow_nan=False)


def test_a_simulation_repeats_itself(search_scale):
    setting = search_scale.Setting(search_scale.Arguments(sampler="random"), "ours", 9, 2, 3)
    first, again = search_scale.simulate(setting), search_scale.simulate(setting)
    assert first["curve"] == again["curve"]
    assert first["makespan_hours"] == again["makespan_hours"]


def test_workers_wait_for_the_driver_alone(search_scale):
    # 2 baselines, then 4 equal pipelines of 400 s on 4 workers: one wave.
    model = search_scale.SyntheticPipelines(noise=0.0)
    model_of_one = type(
        "Equal", (), {"get_baseline": model.get_baseline, "get_costs": model.get_costs,
                      "get_miou": model.get_miou, "get_seconds": lambda self, s, stage: 100.0},
    )()  # fmt: skip
    setting = search_scale.Setting(search_scale.Arguments(sampler="random"), "plain", 4, 4, 0)
    with search_scale.tempfile.TemporaryDirectory() as folder:
        study = search_scale.ToldStudy(search_scale.make_config(setting), search_scale.Path(folder))
        worker = search_scale.Worker(model_of_one, ())
        trace = search_scale.drive(search_scale.PlainScript(study), study, worker, 4, 10.0)
    # Teacher from 10 s to 1710 s, 100 s of which its latency takes; pipelines start at 1720, 1730,
    # 1740, 1750 and take 400 s.
    assert trace.baselines_finished == 1710.0
    assert trace.makespan == 2150.0
    assert trace.busy_after_baselines == 1600.0
    assert [entry[0] for entry in trace.finished] == [2120.0, 2130.0, 2140.0, 2150.0]


def test_the_model_is_consistent(simulated_pipelines):
    model = simulated_pipelines.SyntheticPipelines(seed=1)
    small, large = make_settings(pruning_ratio=0.7), make_settings(pruning_ratio=0.3)
    assert model.get_miou(small) == model.get_miou(small)
    assert model.get_miou(small, is_noisy=False) < model.get_miou(large, is_noisy=False)
    for name in simulated_pipelines.COSTS:
        assert model.get_costs(small)[name] < model.get_costs(large)[name]
    curve = [model.get_miou(large, share / 4, is_noisy=False) for share in range(5)]
    assert curve == sorted(curve)
    assert replace(model, seed=2).get_miou(small) != model.get_miou(small)


def test_a_recorded_run_answers_with_its_nearest_trial(simulated_pipelines, tmp_path):
    costs = {"latency_ms": 5.0, "num_params": 500.0, "macs": 9.0}
    records = [
        TrialRecord(
            number=number,
            state="complete",
            settings=make_settings(pruning_ratio=ratio),
            metrics={**costs, "latency_ms": 10 * (1 - ratio), "miou": 0.6 - ratio / 2},
            seconds={"sparse": 20.0 * (number == 0), "pruned": 2, "latency": 1, "distilled": 50},
        )
        for number, ratio in enumerate((0.3, 0.7))
    ]
    write_trials(tmp_path / "trials.csv", records, ("miou", "latency_ms"))
    baselines = [
        simulated_pipelines.SyntheticPipelines().get_baseline(name)[0].to_entry()
        for name in ("teacher", "dense")
    ]
    (tmp_path / "metadata.json").write_text(json.dumps({"baselines": baselines}))
    model = simulated_pipelines.RecordedPipelines(tmp_path)
    near = make_settings(pruning_ratio=0.6)
    assert model.get_costs(near)["latency_ms"] == pytest.approx(3.0)
    assert model.get_miou(near) == pytest.approx(0.25)
    assert model.get_miou(near, 0.25) < 0.25
    seconds = [model.get_seconds(near, stage) for stage in simulated_pipelines.STAGES]
    assert seconds == [20.0, 2.0, 1.0, 50.0]
    assert model.get_baseline("teacher")[1] == 50.0


def test_a_folder_without_a_run_is_named(search_scale, tmp_path, capsys):
    assert search_scale.main(["--run-dir", str(tmp_path)]) == 2
    assert "not the folder of a finished run" in " ".join(capsys.readouterr().out.split())
