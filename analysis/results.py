"""Reads the results of a run from its folder: metadata.json, trials.csv and the other files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
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
# Settings that change the precision of a latency measurement, but not what it measures.
PRECISION_SETTINGS = {"confidence", "relative_margin", "max_seconds"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """The content of one run's folder.

    Attributes:
        folder: Path of the folder.
        metadata: Content of metadata.json.
        objectives: Objectives that have a column in trials.csv.
        missing_objectives: Names of the objectives without a column.
        baselines: Teacher, dense network and the like.
        trials: All trials, in the order of the file.
        retrainings: Trial number -> mIoUs of its retrainings (confirmation.csv).
        held_out: Network ("dense", "trial-7") -> its score on the test split (test.csv).
        pictures: Predictions on selected images (pictures/); None if there are none.
        warnings: Warnings of the run.
        kept_out: Trial number -> reason why its network is kept out of the front although it is
            complete, for example because the engine cannot run it (deploy/kept_out.json).
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
        """Name of the run's folder."""
        return self.folder.name

    @property
    def recipe(self) -> str:
        """Name of the run's recipe."""
        return str(self.metadata.get("recipe", "unnamed"))

    @property
    def students(self) -> tuple[Baseline, ...]:
        """The uncompressed networks that were compressed."""
        return tuple(item for item in self.baselines if item.role == "student")


@dataclass(frozen=True, kw_only=True)  # no slots, because cached_property needs a __dict__
class Results:
    """One or several runs with the same objectives, as one set of trials.

    Attributes:
        runs: The runs.
        objectives: Common objectives of the runs, each with the worst reference of all runs.
        trials: All trials of all runs.
        notes: Notes that a reader must know before trusting the figures.
    """

    runs: tuple[Run, ...]
    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    notes: tuple[str, ...] = field(default=())

    @cached_property
    def measured(self) -> tuple[Trial, ...]:
        """Complete trials that have every objective and are not kept out of the front."""
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
        """Baselines of all runs; one that several runs have in common is taken from the first."""
        found: dict[tuple[str, str], Baseline] = {}
        for baseline in chain.from_iterable(run.baselines for run in self.runs):
            found.setdefault((baseline.name, baseline.stage), baseline)
        return tuple(found.values())

    def find_student(self, trial: Trial) -> Baseline | None:
        """Return the uncompressed network that a trial was made from; None if it is not known."""
        students = self.get_run(trial).students
        folders = set(trial.stages.values())
        named = [item for item in students if item.stage and item.stage in folders]
        return next(iter([*named, *students]), None)

    @cached_property
    def setting_names(self) -> list[str]:
        """Names of all settings that any trial has, in the order of the files."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.settings))

    @cached_property
    def varied_settings(self) -> list[str]:
        """Names of the settings that differ between trials."""
        return [
            name
            for name in self.setting_names
            if len({trial.settings.get(name) for trial in self.trials}) > 1
        ]

    @cached_property
    def setting_labels(self) -> dict[str, str]:
        """Label of each setting: the last part of its name if that is unique, else the name."""
        short = {name: name.rsplit(".", 1)[-1] for name in self.setting_names}
        counts = Counter(short.values())
        return {name: label if counts[label] == 1 else name for name, label in short.items()}

    def find_objective(self, name: str) -> Objective | None:
        """Return the objective of this name; None if the runs do not have it."""
        return next((item for item in self.objectives if item.name == name), None)

    def get_run(self, trial: Trial) -> Run:
        """Return the run that a trial belongs to."""
        return next(run for run in self.runs if run.name == trial.run)

    def label(self, trial: Trial) -> str:
        """Return a label of a trial that is unique among all runs."""
        return f"{trial.number}" if len(self.runs) == 1 else f"{trial.run}/{trial.number}"

    def label_student(self, trial: Trial) -> str:
        """Return a label of a trial's uncompressed network, unique among all runs; "" for none."""
        student = self.find_student(trial)
        if student is None:
            return ""
        return student.name if len(self.runs) == 1 else f"{trial.run}/{student.name}"


def load_run(folder: str | Path) -> Run:
    """Read the files of a run.

    Raises:
        ResultsError: The folder or a file is missing or broken; the message names the file and the
            place in it.
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
        raise ResultsError(f"{path}: must contain a reason by trial number: {error}") from error


def combine_runs(runs: Sequence[Run]) -> Results:
    """Combine runs that have the same objectives.

    Raises:
        ResultsError: Two runs have the same name, or the runs differ in objectives, data set or
            latency measurement.
    """
    if not runs:
        raise ResultsError("no run folder given")
    folders: dict[str, Path] = {}
    for run in runs:  # a run is known by the name of its folder
        if run.folder in folders.values():
            raise ResultsError(f"{run.folder} is given twice")
        if run.name in folders:
            raise ResultsError(
                f"the runs cannot be shown together: {folders[run.name]} and {run.folder} have the "
                "same name; rename one of them"
            )
        folders[run.name] = run.folder
    first = runs[0]
    notes: list[str] = []
    for run in runs[1:]:
        _check_comparable(first, run)
        if run.metadata.get("hardware") != first.metadata.get("hardware"):
            notes.append(
                f"{run.name} and {first.name} ran on different hardware: "
                "their latencies are not comparable."
            )
    for run in runs:
        notes.extend(
            f"trials.csv of {run.name} has no column {name}, so this objective is left out."
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
                f"Trial {results.label(trial)} is complete but has no {', '.join(missing)}, so it "
                "is left out of the front."
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
    """Return by name the facts that must be equal in two runs to compare their networks."""
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
