"""A search that starts from the finished pipelines of earlier runs."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from search.config import StudyConfig, save_config
from search.pipelines.records import TrialRecord
from search.pipelines.study import EARLIER, PipelineStudy
from search.proposing.samplers import SAMPLERS
from search.run_files.comparable_latency import check_latency
from search.run_files.results import write_trials
from search.run_files.warm_start import read_known
from search.space import set_ranges
from trainables.chain import make_settings
from trainables.data_source import DataConfig
from trainables.pipeline import StageResult

HARDWARE = {"cpu": "some processor"}


def write_run(folder: Path, config: StudyConfig, num_complete: int = 12) -> Path:
    """A run whose best pipelines have a high temperature; one more of it failed."""
    folder.mkdir()
    save_config(config, folder / "config.json")
    records = []
    for number in range(num_complete + 1):
        settings = make_settings(
            temperature=1 + number / 2, pruning_ratio=0.2 + number % 6 / 10, lr=2e-3
        )
        metrics = {"miou": number / 20, "latency_ms": 9.0, "num_params": 1e5, "macs": 1e9}
        state: Any = "complete" if number < num_complete else "failed"
        metrics |= {"iou/road": 0.9}
        records.append(
            TrialRecord(
                number=number,
                state=state,
                settings={
                    **settings,
                    "pruned.pruning_ratio": round(settings["pruned.pruning_ratio"], 1),
                },
                metrics=metrics if state == "complete" else {},
            )
        )
    write_trials(folder / "trials.csv", records, config.objectives)
    metadata = {"latency": {"device": "cpu"}, "hardware": HARDWARE}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    return folder


def start(config: StudyConfig, folder: Path) -> PipelineStudy:
    folder.mkdir(exist_ok=True)
    study = PipelineStudy(config, folder)
    if study.awaits_known:
        study.learn_from(read_known(config))
    return study


@pytest.fixture
def warm(config: StudyConfig, tmp_path: Path) -> StudyConfig:
    return replace(config, warm_start=(write_run(tmp_path / "earlier", config),))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_earlier_pipelines_are_known_but_are_not_the_runs_own(
    sampler: str, warm: StudyConfig, tmp_path: Path
) -> None:
    point = make_settings(temperature=1.0, pruning_ratio=0.2, lr=2e-3)  # the earlier run had it
    warm = replace(
        warm, sampler=sampler, first_points=(point,), max_latency_ms=8.0, num_pipelines=4
    )
    chosen = []
    for attempt in ("first", "second"):
        study = start(warm, tmp_path / attempt)
        assert study.records == {}
        assert study.num_unfinished == 4
        while (proposal := study.ask()) is not None:
            chosen.append(proposal.settings)
            metrics = {"miou": 0.1, "latency_ms": 5.0, "num_params": 1e4, "macs": 1e8}
            study.tell(proposal.number, "complete", result=StageResult(metrics=metrics))
        assert list(study.records) == list(range(12, 16))
        assert study.num_unfinished == 0
        trials = study._study.get_trials()
        assert [trial.user_attrs[EARLIER]["trial"] for trial in trials[:12]] == list(range(12))
        assert trials[3].values == [0.15, 9.0, 1e5]
        assert trials[3].constraints == {"latency_ms": 0.125}
    assert chosen[:4] == chosen[4:]
    assert chosen[0] == point


def test_a_resumed_study_needs_no_earlier_run(warm: StudyConfig, tmp_path: Path) -> None:
    study = start(warm, tmp_path / "run")
    first = study.ask()
    shutil.rmtree(warm.warm_start[0])
    again = PipelineStudy(warm, tmp_path / "run")
    assert not again.awaits_known
    assert again.ask() == first
    assert sum(EARLIER in trial.user_attrs for trial in again._study.get_trials()) == 12


def test_a_driver_killed_while_it_learns_learns_the_rest(warm: StudyConfig, tmp_path: Path) -> None:
    study = start(replace(warm, warm_start=()), tmp_path / "run")
    known = read_known(warm)
    study.learn_from(known[:5])
    journal = tmp_path / "run" / "study.journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:-1]))  # without the mark that says that it is through
    study = start(warm, tmp_path / "run")
    origins = [trial.user_attrs[EARLIER]["trial"] for trial in study._study.get_trials()]
    assert origins == list(range(12))


def test_the_genetic_sampler_breeds_from_earlier_pipelines(
    warm: StudyConfig, tmp_path: Path
) -> None:
    study = start(replace(warm, sampler="nsga2"), tmp_path / "run")
    parents = {trial.params["distilled.dkd.temperature"] for trial in study._study.get_trials()}
    temperatures = []
    for _ in range(8):
        proposal = study.ask()
        assert proposal is not None
        temperatures.append(proposal.settings["distilled.dkd.temperature"])
    assert sum(temperature in parents for temperature in temperatures) >= 4


def change_pipeline(config: StudyConfig, **changes: Any) -> StudyConfig:
    return replace(config, pipeline=replace(config.pipeline, **changes))


def test_what_differs_is_named(config: StudyConfig, tmp_path: Path) -> None:
    pipeline = config.pipeline
    others = {
        "pipeline.data.num_samples: 80 there, 160 here": change_pipeline(
            config, data=replace(pipeline.data, num_samples=80)
        ),
        "pipeline.student.width: 0.5 there, 0.25 here": change_pipeline(
            config, student=replace(pipeline.student, width=0.5)
        ),
        "pipeline.teacher.name: dual_branch there": change_pipeline(
            replace(config), teacher=replace(pipeline.teacher, name="dual_branch")
        ),
        f"pipeline.distil.num_steps: 7 there, {pipeline.distil.num_steps} here": change_pipeline(
            config, distil=replace(pipeline.distil, num_steps=7)
        ),
        "pipeline.latency.num_threads: 2 there, 1 here": change_pipeline(
            config, latency=replace(pipeline.latency, num_threads=2)
        ),
    }
    here = change_pipeline(config, teacher=replace(pipeline.teacher, name="deeplabv3plus"))
    for number, (message, other) in enumerate(others.items()):
        folder = write_run(tmp_path / str(number), other)
        with pytest.raises(ValueError, match=f"{folder} are not comparable: .*{message}"):
            read_known(replace(here, warm_start=(folder,)))
    # Effort and noise are no difference; and where latency does not count, neither does its way.
    other = change_pipeline(config, seed=5, latency=replace(pipeline.latency, max_seconds=1.0))
    folder = write_run(tmp_path / "alike", other)
    assert len(read_known(replace(config, warm_start=(folder,)))) == 12
    sizes = replace(
        others["pipeline.latency.num_threads: 2 there, 1 here"], objectives=("miou", "macs")
    )
    folder = write_run(tmp_path / "sizes", sizes)
    config = replace(config, objectives=("miou", "macs"), warm_start=(folder,))
    assert len(read_known(config)) == 12
    check_latency(folder, config, "cuda", [{"gpu": "another"}])


def test_objectives_may_be_added_that_the_earlier_run_has_measured(
    config: StudyConfig, tmp_path: Path
) -> None:
    earlier = replace(config, objectives=("miou", "num_params"))
    folder = write_run(tmp_path / "earlier", earlier)
    more = replace(config, objectives=("miou", "num_params", "macs"), warm_start=(folder,))
    known = read_known(more)
    assert len(known) == 12
    assert known[0].metrics == {"miou": 0.0, "num_params": 1e5, "macs": 1e9}
    assert start(more, tmp_path / "run").ask() is not None
    trials = folder / "trials.csv"
    trials.write_text(trials.read_text().replace(",macs", ",other"))
    with pytest.raises(ValueError, match=f"{folder} did not measure the objective macs; leave"):
        read_known(more)


def test_pipelines_outside_the_space_are_left_out(warm: StudyConfig, tmp_path: Path) -> None:
    temperatures = replace(warm.space.distilled.dkd.temperature, high=2.0)
    space = set_ranges(warm.space, {"distilled.dkd.temperature": temperatures})
    assert [known.number for known in read_known(replace(warm, space=space))] == [0, 1, 2]
    space = set_ranges(warm.space, {"sparse.sparsity_lambda": (1e-2,)})
    with pytest.raises(ValueError, match="12 finished pipelines, none of them inside the space"):
        read_known(replace(warm, space=space))


def test_latencies_of_another_machine_do_not_compare(warm: StudyConfig) -> None:
    (earlier,) = warm.warm_start
    check_latency(earlier, warm, "cpu", [HARDWARE])
    check_latency(earlier, warm, "cpu", [{"cpu": "newer"}, HARDWARE])  # a cluster of both
    with pytest.raises(ValueError, match=r"measured on cpu \(some processor\) there, on cpu \(new"):
        check_latency(earlier, warm, "cpu", [{"cpu": "newer"}])
    with pytest.raises(ValueError, match=r"on cuda \(H200\) here"):
        check_latency(earlier, warm, "cuda", [{"gpu": "H200"}])
    # A host's latency does not depend on the machine of the trainings.
    latency = replace(warm.pipeline.latency, host="pi@raspberry", engine="onnxruntime")
    on_host = replace(warm, pipeline=replace(warm.pipeline, latency=latency))
    check_latency(earlier, on_host, "cuda", [{"gpu": "H200"}])
    (earlier / "metadata.json").unlink()
    with pytest.raises(ValueError, match=r"metadata\.json does not state the run.s hardware"):
        check_latency(earlier, warm, "cpu", [HARDWARE])


def test_a_limit_on_latency_is_compared_as_an_objective_is(
    config: StudyConfig, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "earlier", config)
    limited = replace(config, objectives=("miou", "macs"), max_latency_ms=8.0, warm_start=(folder,))
    with pytest.raises(ValueError, match=r"on cpu \(newer\) here"):
        check_latency(folder, limited, "cpu", [{"cpu": "newer"}])
    threads = replace(limited.pipeline.latency, num_threads=2)
    with pytest.raises(ValueError, match=r"pipeline\.latency\.num_threads: 1 there, 2 here"):
        read_known(change_pipeline(limited, latency=threads))


def test_a_limit_on_what_is_no_objective_is_known_of_earlier_pipelines(
    config: StudyConfig, tmp_path: Path
) -> None:
    folder = write_run(tmp_path / "earlier", config)
    limited = replace(config, objectives=("miou", "num_params"), max_macs=5e8, warm_start=(folder,))
    trials = start(limited, tmp_path / "run")._study.get_trials()
    assert trials[0].constraints == {"macs": 1.0}
    assert trials[0].values == [0.0, 1e5]


def write_images(root: Path, *, side: int = 8) -> Path:
    for kind, mode in (("images", "RGB"), ("masks", "L")):
        (root / kind).mkdir(parents=True)
        for stem in ("a", "b"):
            Image.new(mode, (side, side)).save(root / kind / f"{stem}.png")
    (root / "classes.txt").write_text("road\ncar\n")
    (root / "train.txt").write_text("a\n")
    (root / "val.txt").write_text("b\n")
    return root


def test_data_may_have_moved_but_not_changed(config: StudyConfig, tmp_path: Path) -> None:
    def use(root: Path) -> StudyConfig:
        return change_pipeline(config, data=DataConfig(name="folder", root=root))

    folder = write_run(tmp_path / "earlier", use(write_images(tmp_path / "here")))
    for name, side, fits in (("copy", 8, True), ("other", 64, False)):
        there = write_images(tmp_path / name, side=side)
        given = replace(use(there), warm_start=(folder,))
        if fits:
            assert len(read_known(given)) == 12
        else:
            with pytest.raises(ValueError, match=r"pipeline.data.root: the files in .*here there"):
                read_known(given)
