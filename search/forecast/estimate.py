"""The estimate of a study, kept in the run's folder for later sessions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from models.files.atomic_file import write_atomically
from search.config import StudyConfig
from search.duration import format_duration
from search.forecast.dry_run import Forecast
from search.pipelines.places import Places
from search.run_files.run_folder import ESTIMATE_FILE
from search.run_files.spending import Spending, Tariff
from trainables.pipeline import build_baselines
from trainables.rehearsal import StageRate


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """Expected time of a study.

    Attributes:
        rates: Rates by kind of stage.
        forecast: Forecast of the study from the estimate on, within its time limit.
        worked_seconds: Seconds that the study had worked before the estimate.
        changes: Changes that make the study fit its time limit, one sentence each.
        problems: Reasons why stages could not be timed.
    """

    rates: Mapping[str, StageRate]
    forecast: Forecast
    worked_seconds: float = 0.0
    changes: tuple[str, ...] = ()
    problems: tuple[str, ...] = field(default=())

    @property
    def seconds(self) -> float:
        """Working time of the whole study, the timing of its stages included."""
        return self.worked_seconds + self.forecast.seconds


def save_estimate(estimate: Estimate, folder: Path) -> None:
    """Write estimate.json."""
    text = TypeAdapter(Estimate).dump_json(estimate, indent=1).decode()
    write_atomically(folder / ESTIMATE_FILE, text + "\n")


def load_estimate(folder: Path) -> Estimate | None:
    """Read estimate.json of an earlier session; None if there is none.

    Raises:
        ValueError: It is damaged.
    """
    path = folder / ESTIMATE_FILE
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Estimate).validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(
            f"{path} cannot be read; delete it to time the stages anew: {error}"
        ) from None


def describe_estimate(
    config: StudyConfig, estimate: Estimate, places: Places, tariff: Tariff
) -> Iterator[str]:
    """Say in a few lines what a study will take, and what of it fits.

    Args:
        config: Of the study, as it will be run.
        estimate: Of it.
        places: Of the machines.
        tariff: How hours are counted, and what they cost.
    """
    forecast = estimate.forecast
    spending = Spending(tariff=tariff, spent_seconds=forecast.spent_seconds)
    trainings = [f"{name} {format_duration(s)}" for name, s in forecast.by_baseline.items()]
    pipelines = (
        f"{forecast.num_ended} pipelines "
        f"{format_duration(forecast.seconds - forecast.root_seconds)}, {places.count} at a time"
    )
    yield (
        f"estimate: {format_duration(forecast.seconds)} ({', '.join([*trainings, pipelines])}), "
        f"{spending.describe()}"
    )
    if config.confirm:
        yield f"{config.confirm} retrainings of every network of the front come on top of that"
    yield from estimate.changes
    if config.time_limit is not None:
        yield from _describe_fit(config, forecast)
    yield from estimate.problems


def _describe_fit(config: StudyConfig, forecast: Forecast) -> Iterator[str]:
    untrained = [n for n in build_baselines(config.pipeline) if n not in forecast.by_baseline]
    if untrained:
        yield f"within {config.time_limit} there is no time to train {', '.join(untrained)}"
    if forecast.num_ended < config.num_pipelines:
        yield (
            f"within {config.time_limit} about {forecast.num_ended} of {config.num_pipelines} "
            "pipelines fit; the others are left for a later session"
        )
