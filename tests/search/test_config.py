from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from search.command_line import parse_arguments
from search.config import ConfigError, StudyConfig, load_config, save_config
from search.objectives import OBJECTIVES
from search.pipelines.study import PipelineStudy
from search.proposing.samplers import SAMPLERS
from search.recipes import RECIPES, describe_recipe
from search.space import SearchSpace, set_ranges
from trainables.chain import build_chain, flatten_chain
from trainables.context import StageContext
from trainables.learning.evaluation import evaluate
from trainables.pipeline import build_baselines
from trainables.pipeline_config import PipelineConfig
from trainables.ranges import FloatRange
from trainables.stages import STAGES

UNTRAINED = ("dense", "pruned", "latency", "quantised")


@pytest.mark.parametrize("recipe", RECIPES)
def test_config_json_holds_a_recipe_exactly(recipe: str, tmp_path: Path) -> None:
    config = replace(RECIPES[recipe](), seed=7, max_latency_ms=12.5, gpus_per_trial=0.25)
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config


def test_config_json_holds_a_continuous_lambda(tmp_path: Path) -> None:
    config = RECIPES["streets"]()
    given = FloatRange(low=1e-5, high=1e-2, log=True)
    config = replace(config, space=set_ranges(config.space, {"sparse.sparsity_lambda": given}))
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config


@pytest.mark.parametrize("recipe", sorted(set(RECIPES) - {"streets_network"}))
def test_a_recipe_describes_itself_and_starts_inside_its_space(recipe: str) -> None:
    config = RECIPES[recipe]()
    assert config.recipe == recipe
    assert len(describe_recipe(recipe)) > 20
    assert config.num_pipelines >= 5
    assert config.first_points
    points = [flatten_chain(build_chain(config.pipeline.chain, p)) for p in config.first_points]
    assert all(config.space.contains(point) for point in points)
    assert set(config.objectives) <= set(OBJECTIVES)


def test_the_papers_rows_are_proposed_as_they_are(tmp_path: Path) -> None:
    config = RECIPES["papers_camvid"]()
    study = PipelineStudy(config, tmp_path)
    proposals = [study.ask() for _ in config.first_points]
    assert study.ask() is None
    for proposal, point in zip(proposals, config.first_points, strict=True):
        assert proposal is not None
        settings = flatten_chain(proposal.chain)
        assert {name: settings[name] for name in point} == dict(point)
        assert [step.stage for step in proposal.chain].count("pruned") == 1


def test_an_objective_is_declared_once_and_by_a_stage_that_reveals_it() -> None:
    declared = [(stage, entry) for stage in STAGES.values() for entry in stage.objectives]
    assert {"miou", "latency_ms", "num_params", "macs"} <= set(OBJECTIVES)
    assert sorted(OBJECTIVES) == sorted(entry.name for _, entry in declared)
    assert all(entry.name in stage.reveals for stage, entry in declared)


def test_cityscapes_is_the_papers_setting() -> None:
    config = RECIPES["cityscapes"]()
    training = config.pipeline.dense
    assert (training.num_steps, training.batch_size) == (40_000, 8)
    assert training.optimizer.learning_rate(0, 40_000) == 0.01
    assert training.optimizer.learning_rate(39_999, 40_000) == 1e-4
    first = flatten_chain(build_chain(config.pipeline.chain, config.first_points[0]))
    assert (
        first["distilled.dkd.temperature"],
        first["distilled.dkd.alpha"],
        first["distilled.dkd.beta"],
        first["distilled.dkd.eta"],
    ) == (4, 1, 8, 1)
    assert first["pruned.pruning_ratio"] == 0.5
    assert config.pipeline.student.auxiliary


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (["nonsense"], 1, "unknown field nonsense"),
        (["pipeline", "dense", "steps"], 1, "unknown field pipeline.dense.steps"),
        (["pipeline", "dense", "num_steps"], "many", "pipeline.dense.num_steps: .*got 'many'"),
        (["pipeline", "dense", "num_steps"], 0, "num_steps must be at least 1, got 0"),
        (["sampler"], "cmaes", "sampler: .*'tpe'.*got 'cmaes'"),
        (["objectives"], ["miou"], "at least two different ones"),
        (["space", "distilled", "lr", "low"], 5.0, "space.distilled.lr: .*low <= high"),
    ],
)
def test_a_wrong_config_json_is_named(
    place: list[str], value: object, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    save_config(RECIPES["streets"](), path)
    content = json.loads(path.read_text())
    inner = content
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_a_config_json_of_an_older_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"space": {"sparsity_lambda": [1e-5]}, "recipe": "camvid"}))
    with pytest.raises(ConfigError, match="written by an older version of segfront"):
        load_config(path)


@pytest.mark.parametrize(
    ("name", "training"),
    [
        ("gpus_per_trial", "sparse"),
        ("processes_per_trial", "distil"),
        ("gpus_per_baseline", "teacher_training"),
        ("processes_per_baseline", "dense"),
    ],
)
def test_no_more_processes_are_wanted_than_a_batch_has_images(name: str, training: str) -> None:
    config = RECIPES["streets"]()
    small = replace(getattr(config.pipeline, training), batch_size=3)
    config = replace(config, pipeline=replace(config.pipeline, **{training: small}))
    assert getattr(replace(config, **{name: 3}), name) == 3
    with pytest.raises(ValueError, match=rf"{name} must be at most 3.*{training}.*got 4"):
        replace(config, **{name: 4})


def test_a_missing_or_broken_config_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "config.json")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="not JSON"):
        load_config(tmp_path / "config.json")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ("miou", "miou")}, "two different ones of .*miou.* got miou, miou"),
        ({"objectives": ("miou", "joy")}, "two different ones"),
        ({"sampler": "best"}, f"one of {', '.join(SAMPLERS)}; got 'best'"),
        ({"num_pipelines": 0}, "num_pipelines must be at least 1, got 0"),
        ({"gpus_per_trial": 1.5}, r"must be in 0\.\.1 .*or a whole number; got 1\.5"),
        ({"gpus_per_trial": math.inf}, r"must be in 0\.\.1 .*or a whole number; got inf"),
        ({"max_latency_ms": 0.0}, "max_latency_ms must be greater than 0"),
        ({"max_macs": -1.0}, "max_macs must be greater than 0, got -1.0"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"confirm": 1}, "confirm must be 0 or at least 2.*got 1"),
        ({"confirm": -2}, "confirm must be 0 or at least 2.*got -2"),
        (
            {"confirm": 3, "objectives": ("latency_ms", "macs")},
            "confirm must be 0 unless miou is an objective.*got 3",
        ),
        (
            {"confirm": 3, "pipeline": PipelineConfig(chain=UNTRAINED)},
            "unless a stage after .*got 3",
        ),
        ({"pipeline": PipelineConfig(chain=("dense", "prunned"))}, "stage must be one of"),
        ({"pipeline": PipelineConfig(chain=())}, "needs at least one stage"),
        (
            {"space": set_ranges(SearchSpace(), {"dense.student": ("student", "typo")})},
            r"space.dense.student: student must be one of student; got .typo.",
        ),
        ({"stall_seconds": 10.0}, r"more than twice pipeline.latency.max_seconds \(40\), got 10"),
        ({"stall_seconds": -1.0}, "stall_seconds must be 0 or more than"),
    ],
)
def test_a_wrong_study_is_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StudyConfig(**changes)  # type: ignore[arg-type]


def test_what_measures_an_objective_is_appended_to_the_pipelines():
    config = StudyConfig(objectives=("miou", "latency_ms", "consistency"))
    default = StudyConfig()
    assert config.pipeline.chain == (*default.pipeline.chain, "consistency")
    given = replace(default.pipeline, chain=("dense", "pruned", "latency", "distilled"))
    assert StudyConfig(pipeline=given).pipeline.chain == given.chain
    untimed = replace(default.pipeline, chain=("dense", "pruned", "distilled"))
    with pytest.raises(ValueError, match="stage latency can follow dense, teacher, pruned"):
        StudyConfig(pipeline=untimed)
    unmeasured = replace(default.pipeline, chain=("dense", "sparse", "pruned", "latency"))
    for objectives in (("miou", "latency_ms"), ("latency_ms", "num_params")):
        with pytest.raises(ValueError, match=r"measures miou of the network .* distilled, quant"):
            StudyConfig(pipeline=unmeasured, objectives=objectives)


def test_a_limit_is_on_what_the_pipelines_measure():
    stages = ("dense", "sparse", "pruned", "distilled")
    pipeline = replace(StudyConfig().pipeline, chain=stages)
    config = StudyConfig(pipeline=pipeline, objectives=("miou", "num_params"), max_macs=1e9)
    assert config.pipeline.chain == stages
    with pytest.raises(ValueError, match="stage latency can follow dense, teacher, pruned"):
        replace(config, max_latency_ms=20.0)


def test_points_lose_the_settings_of_stages_that_the_pipelines_do_not_have() -> None:
    config = RECIPES["camvid"]()
    stages = ("dense", "pruned", "latency", "distilled")
    shorter = replace(config, pipeline=replace(config.pipeline, chain=stages))
    (point,) = shorter.first_points
    assert point.items() < config.first_points[0].items()
    assert config.first_points[0].keys() - point.keys() == {"sparse.sparsity_lambda"}
    with pytest.raises(ValueError, match="unknown setting spares"):
        replace(config, first_points=({"spares.sparsity_lambda": 1e-5},))
    flags = ["camvid", "--pipeline.chain", *stages]
    assert parse_arguments(flags).study.first_points == shorter.first_points


def test_the_quickstart_compresses_a_shipped_network(tmp_path: Path) -> None:
    pipeline = RECIPES["quickstart"]().pipeline
    path = pipeline.student.given_weights()
    assert path is not None
    assert path.stat().st_size <= 2_000_000
    assert pipeline.self_teaching
    assert list(build_baselines(pipeline)) == ["dense"]  # nothing is trained before the pipelines
    network = pipeline.student.build(19)
    data = replace(pipeline.data, num_samples=80).open("val")
    context = StageContext(cache_dir=tmp_path, num_threads=1)
    assert evaluate(network, data, context).miou > 0.5


def test_its_network_is_trained_by_a_recipe() -> None:
    recipe, quickstart = RECIPES["streets_network"]().pipeline, RECIPES["quickstart"]().pipeline
    assert replace(quickstart.student, weights=None) == recipe.student
    assert quickstart.data.size == recipe.data.size


def test_only_fine_tuned_networks_can_be_confirmed() -> None:
    assert StudyConfig().can_confirm
    assert not replace(StudyConfig(), objectives=("latency_ms", "macs")).can_confirm
    pipeline = replace(StudyConfig().pipeline, chain=("dense", "latency"))
    assert not StudyConfig(pipeline=pipeline).can_confirm
