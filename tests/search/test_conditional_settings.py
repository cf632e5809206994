"""Settings that count under one choice alone, on a problem whose best answer is known."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.samplers import NSGAIISampler

from search.config import StudyConfig
from search.pipelines.study import PipelineStudy
from search.proposing.conditional_settings import CompletingSampler
from search.proposing.samplers import SamplerName
from search.space import make_space
from trainables.pipeline import StageResult
from trainables.ranges import FloatRange

BEST_ALPHA = 0.85
SPACE = make_space(
    sparsity_lambda=(1e-5,),
    pruning_ratio=FloatRange(low=0.5, high=0.5),
    scope=("local",),
    distiller=("dkd", "kd"),
    alpha=FloatRange(low=0.0, high=1.0),
    **{name: FloatRange(low=1.0, high=1.0) for name in ("temperature", "beta", "eta")},
)


def get_metrics(settings: Mapping[str, Any]) -> dict[str, float]:
    """The front is kd with alpha 0.85, at any lr; dkd is better than kd with a random alpha.

    Either distiller has an alpha of its own. The loss of kd is 2 (alpha - 0.85)^2, 0.41 on average
    over alpha in 0..1; that of dkd is 0.25 at the least.
    """
    if settings["distilled.distiller"] == "kd":
        loss = 2 * (settings["distilled.kd.alpha"] - BEST_ALPHA) ** 2
    else:
        loss = 0.25 + 0.5 * (settings["distilled.dkd.alpha"] - 0.3) ** 2
    share = math.log(settings["distilled.lr"] / 0.003) / math.log(10)
    return {"miou": 1 - (share + loss) / 2, "latency_ms": 1 - share + loss}


def propose(folder: Path, sampler: SamplerName, num_pipelines: int) -> list[Mapping[str, Any]]:
    """Settings of the pipelines of the last third of a study."""
    config = StudyConfig(
        num_pipelines=num_pipelines,
        sampler=sampler,
        space=SPACE,
        objectives=("miou", "latency_ms"),
        continuation=False,  # every setting is the sampler's
    )
    study = PipelineStudy(config, folder)
    while (proposal := study.ask()) is not None:
        result = StageResult(metrics=get_metrics(proposal.settings))
        study.tell(proposal.number, "complete", result=result)
    records = sorted(study.records.values(), key=lambda record: record.number)
    return [record.settings for record in records[-(num_pipelines // 3) :]]


def has_found(proposed: list[Mapping[str, Any]]) -> bool:
    """Whether most are of the better distiller, and most of these near its best setting."""
    alphas = [s["distilled.kd.alpha"] for s in proposed if s["distilled.distiller"] == "kd"]
    is_better = len(alphas) > 0.6 * len(proposed)
    return is_better and statistics.median(abs(a - BEST_ALPHA) for a in alphas) < 0.15


@pytest.mark.parametrize(
    ("sampler", "num_pipelines"), [("tpe", 60), ("nsga2", 90), ("nsga3", 90), ("gp", 15)]
)
def test_a_sampler_finds_the_branch_and_its_setting(
    tmp_path: Path, sampler: SamplerName, num_pipelines: int
) -> None:
    proposed = propose(tmp_path, sampler, num_pipelines)
    assert has_found(proposed), [
        (s["distilled.distiller"], s.get("distilled.kd.alpha")) for s in proposed
    ]


def test_chance_does_not_find_them(tmp_path: Path) -> None:
    assert not has_found(propose(tmp_path, "random", 90))


DISTRIBUTIONS = {
    "before": FloatDistribution(1.0, 2.0),
    "choice": CategoricalDistribution(("one", "two")),
    "one": FloatDistribution(1e-4, 1e-2, log=True),
    "two": FloatDistribution(0.0, 1.0, step=0.25),
}


@pytest.fixture
def study() -> optuna.Study:
    """The second trial uses another setting than the first, and inherits `before` from it."""
    made = optuna.create_study(directions=["minimize", "minimize"])
    trials = (
        {"before": 1.5, "choice": "one", "one": 1e-3},
        {"choice": "two", "two": 0.5},
    )
    for params in trials:
        own = {name: DISTRIBUTIONS[name] for name in params}
        made.add_trial(optuna.create_trial(params=params, distributions=own, values=[0.0, 1.0]))
    return made


def test_a_trial_is_completed_with_what_it_inherits(study: optuna.Study) -> None:
    inherited = {1: {"before": 1.5, "choice": "two", "two": 0.5}}
    sampler = CompletingSampler(
        NSGAIISampler(seed=0), DISTRIBUTIONS, lambda number: inherited.get(number, {})
    )
    before = [trial.params for trial in study.trials]
    first, second = sampler.view(study).get_trials()
    assert second.params["before"] == 1.5
    for trial in (first, second):
        assert trial.params.keys() == DISTRIBUTIONS.keys()
        assert trial.distributions == DISTRIBUTIONS
        assert 1e-4 <= trial.params["one"] <= 1e-2
        assert trial.params["two"] in (0.0, 0.25, 0.5, 0.75, 1.0)
    again = sampler.view(study).get_trials()
    assert [trial.params for trial in again] == [first.params, second.params]
    assert [trial.params for trial in study.trials] == before


def test_a_sampler_is_asked_for_every_setting(study: optuna.Study) -> None:
    plain = NSGAIISampler(seed=0)
    completing = CompletingSampler(NSGAIISampler(seed=0), DISTRIBUTIONS, lambda number: {})
    running = optuna.create_trial(state=optuna.trial.TrialState.RUNNING)
    assert plain.infer_relative_search_space(study, running).keys() == {"choice"}
    assert completing.infer_relative_search_space(study, running) == DISTRIBUTIONS


def test_what_precedes_pruning_is_learnt_of_although_most_trials_inherit_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[set[str]] = []
    infer = CompletingSampler.infer_relative_search_space

    def note(self: CompletingSampler, *arguments: Any) -> Any:
        found = infer(self, *arguments)
        asked.append(set(found))
        return found

    monkeypatch.setattr(CompletingSampler, "infer_relative_search_space", note)
    study = PipelineStudy(
        StudyConfig(num_pipelines=12, sampler="nsga2", objectives=("miou", "num_params")), tmp_path
    )
    while (proposal := study.ask()) is not None:
        metrics = {"miou": 0.5, "num_params": 1.0 - proposal.settings["pruned.pruning_ratio"]}
        study.tell(proposal.number, "complete", result=StageResult(metrics=metrics))
    assert any(record.continues is not None for record in study.records.values())
    assert "sparse.sparsity_lambda" in asked[-1]
