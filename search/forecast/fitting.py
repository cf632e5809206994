"""Changes a study before it starts if its time limit is too short for it; says each change.

Pipelines that do not fit need no change: the search leaves them out by itself. If too few pipelines
would fit, the study is changed:

1. A teacher whose training does not fit, or leaves time for less than half of the pipelines, is not
   trained if more pipelines fit without it. The uncompressed student teaches instead (as with
   --teacher same).
2. If fewer than three pipelines still fit, the trainings of the uncompressed networks are
   shortened, by no more than necessary.
3. If that is not enough, all trainings are shortened.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from search.config import StudyConfig
from search.duration import format_duration
from search.forecast.dry_run import Forecast
from trainables.pipeline import build_baselines
from trainables.stages import STAGES
from trainables.stages.teacher import TeacherStage

LEAST_PIPELINES = 3
"""Least number of pipelines that is accepted as an answer before trainings are shortened."""

SHORTENED = (0.8, 0.64, 0.5, 0.4, 0.3, 0.2, 0.15, 0.1, 0.05, 0.02)
"""Fractions of the steps that are tried in this order when trainings are shortened."""

Predict = Callable[[StudyConfig], Forecast]


class FittedStudy(NamedTuple):
    """A study and what was changed to make it fit.

    Attributes:
        config: The study.
        forecast: Of it, within its limit.
        changes: A sentence for each change.
    """

    config: StudyConfig
    forecast: Forecast
    changes: tuple[str, ...] = ()


def fit_study(config: StudyConfig, predict: Predict) -> FittedStudy:
    """Change a study as little as it takes to answer within its limit.

    Args:
        config: Of the study, with a time limit.
        predict: Says how a study goes within the limit.

    Raises:
        ValueError: No change makes a pipeline fit.
    """
    forecast = predict(config)
    changes: tuple[str, ...] = ()
    is_taught = TeacherStage.name in forecast.by_baseline
    is_short = 2 * forecast.num_ended < config.num_pipelines or not is_taught
    if is_short and _trains_teacher(config):
        without = replace(config, pipeline=replace(config.pipeline, self_teaching=True))
        found = predict(without)
        if found.num_ended > forecast.num_ended or not forecast.num_complete:
            changes = (_describe_teacher(config, found.num_ended, forecast.num_ended),)
            config, forecast = without, found
    study = FittedStudy(config, forecast, changes)
    return study if _is_enough(study) else _shorten(study, predict)


def _is_enough(study: FittedStudy) -> bool:
    """Whether enough pipelines are completed, or no pipeline is left out for the limit."""
    forecast, num_pipelines = study.forecast, study.config.num_pipelines
    wanted = min(LEAST_PIPELINES, num_pipelines)
    return forecast.num_complete >= wanted or forecast.num_ended >= num_pipelines


def _shorten(study: FittedStudy, predict: Predict) -> FittedStudy:
    """Shorten trainings until enough pipelines fit, or as many as ever do."""
    best = study
    for stages in (_list_roots(study.config), _list_trained(study.config)):
        for share in SHORTENED:
            config = set_lengths(study.config, stages, share)
            changes = (*study.changes, *_describe_lengths(study.config, config, stages))
            found = FittedStudy(config, predict(config), changes)
            if _is_enough(found):
                return found
            if found.forecast.num_complete > best.forecast.num_complete:
                best = found
    if best.forecast.num_complete:
        return best
    seconds = format_duration(found.forecast.root_seconds)
    raise ValueError(
        f"time_limit {study.config.time_limit} is too short for any answer: with trainings of "
        f"{SHORTENED[-1]:.0%} of their steps the uncompressed networks alone take {seconds}; "
        "choose a longer one, or smaller images and networks"
    )


def set_lengths(config: StudyConfig, stages: Sequence[str], share: float) -> StudyConfig:
    """Shorten the trainings of some stages.

    Args:
        config: Of the study.
        stages: Their names.
        share: Of the steps, above 0.
    """
    pipeline = config.pipeline
    for name in stages:
        num_steps = _count_steps(config, name)
        if num_steps:
            pipeline = STAGES[name].set_length(pipeline, max(1, round(share * num_steps)))
    return replace(config, pipeline=pipeline)


def _list_roots(config: StudyConfig) -> tuple[str, ...]:
    chains = build_baselines(config.pipeline).values()
    return tuple(dict.fromkeys(chain[0].stage for chain in chains))


def _list_trained(config: StudyConfig) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*_list_roots(config), *config.pipeline.chain)))


def _count_steps(config: StudyConfig, name: str) -> int:
    """Steps of a stage's training by its own defaults; 0 where it does not train."""
    stage = STAGES[name]
    return stage.count_work(stage.Settings(), config.pipeline).num_steps


def _trains_teacher(config: StudyConfig) -> bool:
    """Whether a network is trained that only teaches."""
    root = config.pipeline.chain[0]
    helpers = [name for name in _list_roots(config) if name != root]
    return any(_count_steps(config, name) for name in helpers)


def _describe_teacher(config: StudyConfig, num_without: int, num_with: int) -> str:
    return (
        f"the teacher ({config.pipeline.teacher.name}) is not trained: with its training "
        f"{num_with} of {config.num_pipelines} pipelines fit, without it {num_without}; the "
        "uncompressed student teaches instead"
    )


def _describe_lengths(
    before: StudyConfig, after: StudyConfig, stages: Sequence[str]
) -> Iterator[str]:
    for name in stages:
        steps = _count_steps(before, name), _count_steps(after, name)
        if steps[0] != steps[1]:
            yield f"the training {name} is shortened from {steps[0]} to {steps[1]} steps"
