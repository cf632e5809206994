"""The estimate of a study before anything is trained, and the study made to fit its limit."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from search.config import StudyConfig
from search.forecast.dry_run import Forecast, dry_run
from search.forecast.estimate import Estimate
from search.forecast.fitting import FittedStudy, fit_study
from search.forecast.typical_chains import choose_typical_chains
from search.pipelines.places import Places
from search.run_files.finished_stages import FinishedStages
from trainables.chain import Chain
from trainables.context import StageContext
from trainables.rehearsal import StageRate, name_family, name_kind, rehearse

TIMING_SHARE = 0.1
"""Share of a time limit after which no further options of a stage are timed."""

DISTURBANCE = 1.5
"""Factor between two times of a training step above which the machine was disturbed."""


def time_stages(
    config: StudyConfig, context: StageContext, num_threads_root: int
) -> tuple[dict[str, StageRate], list[str]]:
    """Time every kind of stage of a study in this process.

    A machine that is disturbed for some minutes must not shorten a study of hours. So the first
    training is timed once more at the end. If it takes much less time than before, all stages are
    timed again, and the shorter times count.

    Args:
        config: Of the study.
        context: Machine of a pipeline's stage.
        num_threads_root: CPU threads of the training of an uncompressed network.

    Returns:
        Rates by kind, and why a chain could not be timed.
    """
    logger = logging.getLogger("trainables")
    level = logger.level
    logger.setLevel(logging.ERROR)  # what warns in small need not warn in the study
    chains = choose_typical_chains(config)
    rehearsal = functools.partial(_rehearse_all, config, context, num_threads_root)
    try:
        rates, problems = rehearsal(chains)
        if _was_disturbed(rates, rehearsal(_list_first_training(chains, rates))[0]):
            again, problems = rehearsal(chains)
            rates |= {kind: _choose_shorter(rate, rates.get(kind)) for kind, rate in again.items()}
    finally:
        logger.setLevel(level)
    return rates, problems


def _list_first_training(
    chains: Sequence[Chain], rates: Mapping[str, StageRate]
) -> tuple[Chain, ...]:
    """Return the chain up to the first stage that trains; nothing if none was timed."""
    parts = (chain[:length] for chain in chains for length in range(1, len(chain) + 1))
    trained = (
        part for part in parts if rates.get(name_kind(part), StageRate()).seconds_per_step > 0
    )
    return tuple(itertools.islice(trained, 1))


def _was_disturbed(rates: Mapping[str, StageRate], later: Mapping[str, StageRate]) -> bool:
    return any(
        rates[kind].seconds_per_step > DISTURBANCE * rate.seconds_per_step > 0
        for kind, rate in later.items()
        if kind in rates
    )


def _choose_shorter(rate: StageRate, other: StageRate | None) -> StageRate:
    """Choose the rate of a kind that is not from a disturbed minute."""
    if other is None:
        return rate

    def sum_times(rate: StageRate) -> float:
        return rate.seconds_per_step + rate.seconds_per_image + rate.fixed_seconds

    return min(rate, other, key=sum_times)


def _rehearse_all(
    config: StudyConfig, context: StageContext, num_threads_root: int, chains: Sequence[Chain]
) -> tuple[dict[str, StageRate], list[str]]:
    """Time the stages of some chains; returns as `time_stages`."""
    most_seconds = math.inf
    if config.limit_seconds is not None:
        most_seconds = TIMING_SHARE * config.limit_seconds
    rates: dict[str, StageRate] = {}
    problems: list[str] = []
    known: set[str] = set()
    started = time.monotonic()
    with TemporaryDirectory() as scratch:
        for chain in chains:
            families = {name_family(chain[:length]) for length in range(1, len(chain) + 1)}
            if families <= known and time.monotonic() - started > most_seconds:
                problems.append("not every kind of stage was timed, as the time limit is short")
                break
            known |= families
            try:
                rehearse(
                    config.pipeline,
                    chain,
                    context,
                    Path(scratch),
                    num_threads_root=num_threads_root,
                    rates=rates,
                )
            except (ValueError, ArithmeticError, RuntimeError, OSError) as error:
                reason = " ".join(str(error).split())
                problems.append(f"a stage could not be timed beforehand: {reason}")
    return rates, list(dict.fromkeys(problems))


def plan_study(
    config: StudyConfig,
    rates: dict[str, StageRate],
    problems: Sequence[str],
    places: Places,
    *,
    stages_dir: Path | None = None,
    stored: Collection[str] = (),
    worked: float = 0.0,
    may_change: bool = True,
) -> tuple[StudyConfig, Estimate]:
    """Foretell a study, and change it where its time limit asks for that.

    Args:
        config: Of the study.
        rates: What was timed.
        problems: Why stages could not be.
        places: Of the machines.
        stages_dir: Folder of stages that are finished already; None if there are none.
        stored: Names of the files in the storage of the stages.
        worked: Seconds of the study that have passed.
        may_change: Whether nothing of the study has run yet.

    Returns:
        The study to run, and what is expected of it.

    Raises:
        ValueError: The limit is too short for any answer, or for trainings that are comparable with
            those of --warm-start.
    """

    def predict(candidate: StudyConfig) -> Forecast:
        limit = candidate.limit_seconds
        is_done = FinishedStages(candidate.pipeline, stages_dir, stored, roots_only=limit is None)
        left = None if limit is None else limit - worked
        return dry_run(candidate, rates, places, left, is_done)

    if config.limit_seconds is None or not may_change:
        fitted = FittedStudy(config, predict(config))
    else:
        fitted = fit_study(config, predict)
    if config.warm_start and fitted.config.pipeline != config.pipeline:
        raise ValueError(
            f"time_limit {config.time_limit} changes the trainings, so the runs of --warm-start "
            f"are not comparable ({'; '.join(fitted.changes)}); choose a longer one, or leave "
            "--warm-start out"
        )
    estimate = Estimate(
        rates=rates,
        forecast=fitted.forecast,
        worked_seconds=worked,
        changes=fitted.changes,
        problems=tuple(problems),
    )
    return fitted.config, estimate
