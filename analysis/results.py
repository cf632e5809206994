"""What a run left behind, read from its folder: metadata.json and trials.csv."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from analysis.confirmation_csv import read_retrainings
from analysis.csv_tables import ResultsError
from analysis.held_out_csv import HeldOutScore, read_held_out_scores
from analysis.pictures import Pictures, read_pictures
from analysis.run_metadata import (
    Baseline,
    Objective,
    parse_baselines,
    parse_objectives,
    parse_warnings,
    read_json,
)
from analysis.trials_csv import Trial, read_trials

__all__ = [
    "Baseline",
    "Objective",
    "Results",
    "ResultsError",
    "Run",
    "Trial",
    "combine_runs",
    "load_run",
]

KEPT_OUT_FILE = "deploy/kept_out.json"
# Settings of a latency measurement that say how exact it is, not what it measures.
PRECISION_SETTINGS = {"confidence", "relative_margin", "max_seconds"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One run folder.

    Attributes:
        folder: Where it lies.
        metadata: metadata.json as it stands.
        objectives: The objectives that trials.csv has a column for.
        missing_objectives: Names of the objectives that it has none for.
        baselines: Teacher, dense network and the like.
        trials: Every trial, in the order of the file.
        retrainings: Number of a trial -> mIoUs of its further fine-tunings (confirmation.csv).
        held_out: Network ("dense", "trial-7") -> how it does on the test split (test.csv).
        pictures: What its networks predict on chosen images (pictures/); None without.
        warnings: What the run warned of.
        kept_out: Number of a trial -> why its network is no answer although it was measured to the
            end, such as an engine that does not take it (deploy/kept_out.json).
    """

    folder: Path
    metadata: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    missing_objectives: tuple[str, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    trials: tuple[Trial, ...] = ()
    retrainings: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    held_out: Mapping[str, HeldOutScore] = field(default_factory=dict)
    pictures: Pictures | None = None
    warnings: tuple[str, ...] = ()
    kept_out: Mapping[int, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name

    @property
    def recipe(self) -> str:
        """Recipe it ran."""
        return str(self.metadata.get("recipe", "unnamed"))


@dataclass(frozen=True, kw_only=True)  # no slots: what is derived is kept
class Results:
    """One or several runs with the same objectives, as one set of trials.

    Attributes:
        runs: The runs.
        objectives: Their common objectives, with the most generous reference of all.
        trials: All trials of all runs.
        notes: What a reader must know before trusting the figures.
    """

    runs: tuple[Run, ...]
    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def measured(self) -> tuple[Trial, ...]:
        """The complete trials with a value for every objective, without those kept out."""
        names = [objective.name for objective in self.objectives]
        kept_out = {(run.name, number) for run in self.runs for number in run.kept_out}
        return tuple(
            trial
            for trial in self.trials
            if trial.state == "complete"
            and (trial.run, trial.number) not in kept_out
            and all(name in trial.measures for name in names)
        )

    @property
    def directions(self) -> list[str]:
        """Direction of every objective."""
        return [objective.direction for objective in self.objectives]

    @cached_property
    def baselines(self) -> tuple[Baseline, ...]:
        """Baselines of the first run that has any (runs to be combined share them)."""
        return next((run.baselines for run in self.runs if run.baselines), ())

    @property
    def students(self) -> tuple[Baseline, ...]:
        """The uncompressed networks that were compressed."""
        return tuple(item for item in self.baselines if item.role == "student")

    def find_student(self, trial: Trial) -> Baseline | None:
        """Return the uncompressed network that a trial began with; None if it is not known."""
        students = [item for item in self.get_run(trial).baselines if item.role == "student"]
        folders = set(trial.stages.values())
        named = [item for item in students if item.stage and item.stage in folders]
        return next(iter([*named, *students]), None)

    @cached_property
    def setting_names(self) -> list[str]:
        """Every setting that any trial has, in the order of the files."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.settings))

    @cached_property
    def varied_settings(self) -> list[str]:
        """The settings that are not the same in all trials."""
        return [
            name
            for name in self.setting_names
            if len({trial.settings.get(name) for trial in self.trials}) > 1
        ]

    @cached_property
    def setting_labels(self) -> dict[str, str]:
        """What a reader sees for each setting: its last part, where no other one shares that."""
        short = {name: name.rsplit(".", 1)[-1] for name in self.setting_names}
        counts = Counter(short.values())
        return {name: label if counts[label] == 1 else name for name, label in short.items()}

    def find_objective(self, name: str) -> Objective | None:
        """Return the objective of this name, None if the runs do not have it."""
        return next((item for item in self.objectives if item.name == name), None)

    def get_run(self, trial: Trial) -> Run:
        """Return the run that a trial belongs to."""
        return next(run for run in self.runs if run.name == trial.run)

    def label(self, trial: Trial) -> str:
        """Name a trial so that it can be told from all others."""
        return f"{trial.number}" if len(self.runs) == 1 else f"{trial.run}/{trial.number}"


def load_run(folder: str | Path) -> Run:
    """Read a run's metadata.json and trials.csv.

    Raises:
        ResultsError: If the folder or a file is missing or broken; names the file and the place.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise ResultsError(f"{folder}: no such run folder")
    metadata = read_json(folder / "metadata.json")
    for key in ("dataset", "latency", "hardware", "versions", "git"):
        if not isinstance(metadata.get(key) or {}, dict):
            found = metadata[key]
            raise ResultsError(f"{folder / 'metadata.json'}: {key!r} must be an object: {found!r}")
    wanted = parse_objectives(metadata, folder / "metadata.json")
    trials, columns = read_trials(
        folder / "trials.csv", run=folder.name, objectives=[item.name for item in wanted]
    )
    objectives = tuple(item for item in wanted if item.name in columns)
    if not objectives:
        names = ", ".join(item.name for item in wanted)
        raise ResultsError(f"{folder / 'trials.csv'}: no column for any objective ({names})")
    return Run(
        folder=folder,
        metadata=metadata,
        objectives=objectives,
        missing_objectives=tuple(item.name for item in wanted if item.name not in columns),
        baselines=parse_baselines(metadata, folder / "metadata.json"),
        trials=trials,
        retrainings=read_retrainings(folder / "confirmation.csv"),
        held_out=read_held_out_scores(folder / "test.csv"),
        pictures=read_pictures(folder / "pictures"),
        kept_out=_read_kept_out(folder / KEPT_OUT_FILE),
        warnings=parse_warnings(metadata, folder / "metadata.json"),
    )


def _read_kept_out(path: Path) -> dict[int, str]:
    if not path.is_file():
        return {}
    try:
        return {int(number): str(reason) for number, reason in read_json(path).items()}
    except ValueError as error:
        raise ResultsError(f"{path}: must hold a reason by number of a trial: {error}") from error


def combine_runs(runs: Sequence[Run]) -> Results:
    """Put runs with the same objectives together.

    Raises:
        ResultsError: If objectives, data set or the way latency is measured differ between them.
    """
    if not runs:
        raise ResultsError("no run folder given")
    first = runs[0]
    notes: list[str] = []
    for run in runs[1:]:
        _check_comparable(first, run)
        if run.metadata.get("hardware") != first.metadata.get("hardware"):
            notes.append(
                f"{run.name} and {first.name} ran on different hardware: "
                "their latencies do not compare."
            )
    for run in runs:
        notes.extend(
            f"trials.csv of {run.name} has no column {name}: left out everywhere."
            for name in run.missing_objectives
        )
    results = Results(
        runs=tuple(runs),
        objectives=_widest_objectives(runs),
        trials=tuple(trial for run in runs for trial in run.trials),
    )
    for trial in results.trials:
        missing = [o.name for o in results.objectives if o.name not in trial.measures]
        if trial.state == "complete" and missing:
            notes.append(
                f"Trial {results.label(trial)} is complete but has no {', '.join(missing)}: "
                "left out of the front."
            )
    return Results(
        runs=results.runs,
        objectives=results.objectives,
        trials=results.trials,
        notes=tuple(notes),
    )


def _check_comparable(first: Run, run: Run) -> None:
    ours, theirs = _comparable_facts(first), _comparable_facts(run)
    differences = [
        f"{name} differs ({theirs.get(name, 'not stated')} in {run.folder}, "
        f"{ours.get(name, 'not stated')} in {first.folder})"
        for name in {**ours, **theirs}
        if ours.get(name) != theirs.get(name)
    ]
    if differences:
        raise ResultsError(f"the runs cannot be shown together: {'; '.join(differences)}")


def _comparable_facts(run: Run) -> dict[str, Any]:
    """Everything that must be the same in two runs before their networks compare, by name."""
    facts: dict[str, Any] = {"objectives": [(o.name, o.direction, o.unit) for o in run.objectives]}
    for key in ("dataset", "latency"):
        for name, value in (run.metadata.get(key) or {}).items():
            if name not in PRECISION_SETTINGS:
                facts[f"{key}.{name}"] = value
    return facts


def _widest_objectives(runs: Sequence[Run]) -> tuple[Objective, ...]:
    objectives = []
    for index, objective in enumerate(runs[0].objectives):
        known = [r for run in runs if (r := run.objectives[index].reference) is not None]
        worst = min if objective.maximize else max
        objectives.append(
            Objective(
                name=objective.name,
                direction=objective.direction,
                unit=objective.unit,
                label=objective.label or objective.name,
                reference=worst(known) if known else None,
            )
        )
    return tuple(objectives)
