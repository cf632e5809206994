"""The Optuna study of a run: it proposes pipelines, records outcomes and survives its driver."""

from __future__ import annotations

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.storages import JournalStorage
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from search.config import StudyConfig
from search.objectives import OBJECTIVES
from search.pipelines.accuracy_bound import SIZES, FinishedNetworks
from search.pipelines.continuation import Origins, find_loop, plan_sweeps
from search.pipelines.journal import BatchingJournal, repair
from search.pipelines.records import (
    KnownPipeline,
    Obstacle,
    Outcome,
    Proposal,
    StoppedBy,
    TrialRecord,
)
from search.proposing.bounded_history import MAX_HISTORY, TrialHistory
from search.proposing.optuna_internals import begin_trial, end_trial, get_trial_id, read_trial
from search.proposing.rung_estimates import RungEstimates
from search.proposing.samplers import (
    FIRST_GENERATION,
    count_random_starts,
    create_sampler,
    derive_seed,
)
from search.proposing.shared_prefix import choose_prefix
from trainables.artifacts.store import is_plain_name
from trainables.chain import Chain, Prefix, build_chain, declare_all, flatten_chain
from trainables.pipeline import StageResult
from trainables.stages import STAGES

STUDY_NAME = "segfront"
JOURNAL_FILE = "study.journal"

_OPTUNA_STATES = {
    "complete": TrialState.COMPLETE,
    "failed": TrialState.FAIL,
    "stopped": TrialState.PRUNED,
}
CONTINUES = "continues"  # attribute: number of the trial from whose network a trial continues
CONTINUES_INSTEAD = "continues_instead"  # attribute: the same, after that trial has failed
FIRST_CHAIN = "first_chain"  # attribute that marks the links of the chains of the beginning
EARLIER = "warm_start"  # attribute that marks trials of earlier runs

_OUTCOME_FIELDS = (
    "reason",
    "stopped_by",
    "metrics",
    "stages",
    "seconds",
    "network",
    "finished_at",
    "elapsed_hours",
)


class _Planned(NamedTuple):
    """A pipeline with which a study begins.

    Attributes:
        settings: Its settings, "stage.setting" -> value; a link lists only what it does not
            inherit.
        previous: Index of the planned pipeline that it continues; None: the unpruned network.
        is_link: Whether it belongs to a chain; otherwise it is a given point.
    """

    settings: dict[str, Any]
    previous: int | None = None
    is_link: bool = False


class PipelineStudy:
    """A study in `RUN_DIR/study.journal`, a file that optuna-dashboard can open.

    Trials that a dead driver left running are handed out again, with their numbers, before any new
    one. Only one driver may use a study at a time; the caller holds the lock of the run's folder.

    With --warm-start, the pipelines of earlier runs are the first trials of the Optuna study. Only
    the sampler sees them; they have no record.

    Args:
        config: Configuration with space, sampler, objectives and number of pipelines.
        run_dir: Folder of the run.
        max_history: As for `search.proposing.samplers.create_sampler`.

    Attributes:
        config: The argument `config`.
        records: Record of every trial that was handed out, by number.
        runs_chains_in_turn: Whether the first chains run one after another; set by the dispatcher,
            which knows the machines.
        spent_seconds: Seconds for which ended stages have held their places, over all sessions.
        running_seconds: The same of the stages that run, as last seen; a later session counts them
            as spent.

    Raises:
        ValueError: The journal names a folder of a stage outside the run.
    """

    def __init__(
        self, config: StudyConfig, run_dir: Path, *, max_history: int | None = MAX_HISTORY
    ) -> None:
        self.config = config
        self._max_history = max_history
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        repair(run_dir / JOURNAL_FILE)
        self._journal = BatchingJournal(run_dir / JOURNAL_FILE)
        self._study = optuna.create_study(
            study_name=STUDY_NAME,
            storage=JournalStorage(self._journal),
            directions=[OBJECTIVES[name].direction for name in config.objectives],
            load_if_exists=True,
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            self._study.set_metric_names(list(config.objectives))
        self._stages = config.pipeline.chain
        self._distributions = config.space.distributions(self._stages)
        self._loop = find_loop(self._stages) if config.continuation else None
        self._origins = Origins(self._loop) if self._loop else None
        self._estimates = RungEstimates(config.rungs, config.objectives)
        self._history = TrialHistory(len(config.objectives))
        self._finished = FinishedNetworks(config.objectives)
        self._trials: dict[int, Trial] = {}
        self.records: dict[int, TrialRecord] = {}
        self._abandoned: list[int] = []
        self.runs_chains_in_turn = False
        self._enqueued: deque[Mapping[str, Any]] = deque()  # their attributes
        self._in_first_chains: set[int] = set()
        self._num_known = 0
        self._history.note_all(self._study)
        for trial in self._study.get_trials(deepcopy=False):
            if trial.state == TrialState.RUNNING:
                self._abandoned.append(get_trial_id(trial))
            elif trial.state == TrialState.WAITING:
                self._enqueued.append(trial.user_attrs)
            if EARLIER in trial.user_attrs:
                self._num_known += 1
            elif trial.state != TrialState.WAITING:
                record = self.records[trial.number] = self._read(trial)
                self._estimates.note(record.number, record.metrics)
                if record.state == "complete":
                    self._note_complete(record)
        clocks = [3600 * (record.elapsed_hours or 0.0) for record in self.records.values()]
        self._worked_before = max(
            float(self._study.user_attrs.get("worked_seconds", 0.0)), *clocks, 0.0
        )
        self.spent_seconds = float(self._study.user_attrs.get("spent_seconds", 0.0))
        self.running_seconds = 0.0
        self._opened = time.monotonic()

    @property
    def awaits_known(self) -> bool:
        """Whether the sampler still has to learn the pipelines of earlier runs."""
        return bool(self.config.warm_start) and EARLIER not in self._study.user_attrs

    def learn_from(self, pipelines: Sequence[KnownPipeline]) -> None:
        """Add finished pipelines of earlier runs for the sampler, before the first proposal.

        They are saved in the journal, so that a resumed study has them without their runs.

        Args:
            pipelines: Pipelines inside the space, with comparable objectives. Those that a killed
                driver has already added are skipped.
        """
        trials = self._study.get_trials(deepcopy=False)
        self._num_known = len(pipelines)
        present = [trial.user_attrs.get(EARLIER) for trial in trials]
        with self.batch():
            for pipeline in pipelines:
                origin = {"run": pipeline.run_dir, "trial": pipeline.number}
                if origin in present:
                    continue
                params = self._select_searched(pipeline.settings)
                self._study.add_trial(
                    create_trial(
                        params=params,
                        distributions={name: self._distributions[name] for name in params},
                        values=[float(pipeline.metrics[name]) for name in self.config.objectives],
                        constraints=self._constrain(pipeline.metrics),
                        user_attrs={EARLIER: origin, "metrics": dict(pipeline.metrics)},
                        system_attrs=dict(FIRST_GENERATION),
                    )
                )
            self._study.set_user_attr(EARLIER, [str(folder) for folder in self.config.warm_start])
        self._history.note_all(self._study)

    @property
    def num_unfinished(self) -> int:
        """Number of pipelines without an outcome, running ones included."""
        return self.config.num_pipelines - sum(
            record.state != "running" for record in self.records.values()
        )

    @property
    def num_running(self) -> int:
        """Number of pipelines that were handed out in this session and have no outcome yet."""
        return sum(self.records[number].state == "running" for number in self._trials)

    @property
    def has_planned(self) -> bool:
        """Whether the next pipeline is decided already: a planned one, or one left unfinished."""
        if not self.records:
            return bool(self._plan_first())
        return bool(self._abandoned or self._enqueued)

    @property
    def is_link_next(self) -> bool:
        """Whether the next pipeline is the next link of a chain, or one that a dead driver left."""
        is_link = bool(self._enqueued) and self._enqueued[0].get(CONTINUES) is not None
        return is_link or bool(self._abandoned)

    def is_in_first_chain(self, number: int | str) -> bool:
        """Whether a trial belongs to one of the chains with which the study begins."""
        return number in self._in_first_chains

    @property
    def begins_untaught(self) -> bool:
        """Whether the first pipeline is planned and needs no teacher."""
        planned = self._plan_first()
        if not planned:
            return False
        chain = build_chain(self._stages, planned[0].settings)
        return not any(STAGES[step.stage].needs_teacher(step.settings) for step in chain)

    @property
    def worked_seconds(self) -> float:
        """Working time in seconds over all sessions."""
        return self._worked_before + time.monotonic() - self._opened

    def batch(self) -> AbstractContextManager[object]:
        """Write all changes that are made inside this context together, at its end."""
        return self._journal.batch()

    def ask(self, ready: Collection[Prefix] = ()) -> Proposal | None:
        """Return the next pipeline; None if all have been handed out.

        Args:
            ready: Settings of the chains whose training is done. While the sampler draws at random,
                pipelines that share such a chain are preferred.
        """
        left = self._abandoned
        if not left and len(self.records) >= self.config.num_pipelines:
            return None
        with self.batch():
            if not self.records:
                self._enqueue_first_points()
            if not left and ready and self._draws_at_random:
                self._enqueue_prefix(ready)
            return self._suggest_next()

    def _suggest_next(self) -> Proposal:
        self._study.sampler = create_sampler(
            self.config.sampler,
            seed=self.config.seed,
            trial_number=len(self.records),
            num_pipelines=self.config.num_pipelines,
            distributions=self._distributions,
            read_settings=self._read_settings,
            estimates=self._estimates,
            history=self._history,
            max_history=self._max_history,
        )
        trial = self._begin_trial()
        self._history.note(read_trial(self._study, get_trial_id(trial)))
        settings, continues = self._choose_settings(trial)
        self._trials[trial.number] = trial
        if FIRST_CHAIN in trial.user_attrs:
            self._in_first_chains.add(trial.number)
        self.records[trial.number] = TrialRecord(
            number=trial.number,
            state="running",
            settings=settings,
            metrics=trial.user_attrs.get("metrics", {}),
            continues=continues,
            started_at=_format_time(trial.datetime_start),
        )
        return Proposal(trial.number, self.get_chain(trial.number))

    def _choose_settings(self, trial: Trial) -> tuple[dict[str, Any], int | None]:
        """Suggest the settings of a pipeline, except those that it inherits from another one."""
        space, loop, origins = self.config.space, self._loop, self._origins

        def suggest(name: str, distribution: BaseDistribution) -> Any:
            return _suggest(trial, name, distribution)

        if loop is None or origins is None:
            return space.suggest(self._stages, suggest), None
        own = space.suggest(loop.chosen, suggest)
        if CONTINUES in trial.user_attrs:
            continues: int | None = trial.user_attrs[CONTINUES]
        else:
            continues = origins.choose(own)
            trial.set_user_attr(CONTINUES, continues)
        if continues is None:
            return {**space.suggest(loop.head, suggest), **own}, None
        origin = trial.user_attrs.get(CONTINUES_INSTEAD, continues)
        while origin is not None and self.records[origin].state == "failed":
            origin = self.records[origin].continues
        if origin != continues:
            trial.set_user_attr(CONTINUES_INSTEAD, origin)
        return self._inherit(continues) | own, origin

    def continue_earlier(self, number: int, has_failed: Callable[[Chain], bool]) -> Chain | None:
        """Let a pipeline continue from an earlier network if the one before it cannot be made.

        It keeps its settings. Without the failed links, a chain goes on from the link before them,
        or from the root.

        Args:
            number: Number of a running pipeline.
            has_failed: Function that says whether a stage of a chain has failed. The pipeline that
                was to be continued may have been stopped before that stage.

        Returns:
            All steps of the pipeline, which have changed if it, or the one that it continues,
            continues from another network than before; None if it cannot be made from any.
        """
        trial, record = self._get_running(number)
        origin = record.continues
        while origin is not None and has_failed(self.get_chain(origin)):
            origin = self.records[origin].continues
        moved = replace(record, continues=origin)
        chain = self._build_chain(moved)
        if has_failed(chain):
            return None
        if origin != record.continues:
            trial.set_user_attr(CONTINUES_INSTEAD, origin)
            self.records[number] = moved
        return chain

    def _read_settings(self, number: int) -> Mapping[str, Any]:
        """What a pipeline chooses and inherits; nothing for one of an earlier run."""
        return self.records[number].settings if number in self.records else {}

    def _inherit(self, number: int) -> dict[str, Any]:
        """Return a pipeline's settings for the stages before the loop, which others inherit."""
        head = declare_all(self._loop.head if self._loop else ())
        chosen = self.records[number].settings
        return {name: value for name, value in chosen.items() if name in head}

    def get_chain(self, number: int) -> Chain:
        """Return all steps of a pipeline, root first.

        Args:
            number: Number of a trial that was handed out.
        """
        return self._build_chain(self.records[number])

    def _build_chain(self, record: TrialRecord) -> Chain:
        if record.continues is None or self._loop is None:
            return build_chain(self._stages, record.settings)
        own = declare_all(self._loop.stages)
        chosen = {name: value for name, value in record.settings.items() if name in own}
        return (*self.get_chain(record.continues), *build_chain(self._loop.stages, chosen))

    def _begin_trial(self) -> Trial:
        """Begin a trial: one that a dead driver left, else an enqueued one, else a new one."""
        if self._abandoned:
            return Trial(self._study, self._abandoned.pop(0))
        if self._enqueued:
            self._enqueued.popleft()
            return self._study.ask()
        return begin_trial(self._study)

    def report(self, number: int, metrics: Mapping[str, float]) -> None:
        """Record a running pipeline's metrics at a rung, for the sampler and the journal.

        Args:
            number: Number of a proposal without an outcome.
            metrics: All metrics measured so far, including "miou@<share>".

        Raises:
            ValueError: The trial was never handed out here, or already has an outcome.
        """
        trial, record = self._get_running(number)
        metrics = dict(metrics)
        if metrics != record.metrics:  # a resumed study reaches the same rung again
            with self.batch():
                trial.set_user_attr("metrics", metrics)
                self._set_constraints(trial, metrics)
            self.records[number] = replace(record, metrics=metrics)
            self._estimates.note(number, metrics)

    def tell(
        self,
        number: int,
        outcome: Outcome,
        *,
        reason: str = "",
        stopped_by: StoppedBy = "",
        result: StageResult | None = None,
    ) -> TrialRecord:
        """Record the outcome of a pipeline, which is complete only if its metrics are acceptable.

        It counts as failed if an objective is not finite, and as stopped if it exceeds a limit.

        Args:
            number: Number of a proposal without an outcome.
            outcome: complete, failed or stopped.
            reason: Reason why it failed or was stopped.
            stopped_by: What stopped it.
            result: Merged result of its stages; if complete, with all objectives.

        Raises:
            ValueError: The trial was never handed out here, or already has an outcome.
        """
        trial, record = self._get_running(number)
        result = result or StageResult()
        metrics = dict(result.metrics)
        if outcome == "complete":
            wrong = [n for n in self.config.objectives if not _is_finite(metrics.get(n))]
            excess = self._describe_excess(metrics)
            if wrong:
                outcome = "failed"
                reason = f"objective {wrong[0]} is {metrics.get(wrong[0])}, not a finite number"
            elif excess:  # of a metric that the last stage has measured
                outcome, reason, stopped_by = "stopped", excess, "limit"
        record = replace(
            record,
            state=outcome,
            reason=reason,
            stopped_by=stopped_by,
            metrics=metrics,
            stages=dict(result.stages),
            seconds=dict(result.seconds),
            network=result.network if outcome == "complete" else "",
            finished_at=_format_time(datetime.now(UTC)),
            elapsed_hours=self.worked_seconds / 3600,
        )
        facts = {name: getattr(record, name) for name in _OUTCOME_FIELDS}
        with self.batch():
            trial.set_user_attr("outcome", facts)
            self._set_constraints(trial, metrics)
            self._estimates.note(number, metrics)
            values = None if outcome == "failed" else self._estimates.get_last(number)
            end_trial(self._study, trial, _OPTUNA_STATES[outcome], values)
        self._history.note(read_trial(self._study, get_trial_id(trial)))
        if outcome == "complete":
            self._note_complete(record)
        self.records[number] = record
        return record

    def _note_complete(self, record: TrialRecord) -> None:
        self._finished.add(record.number, record.metrics)
        if self._origins is not None:
            self._origins.add(record.number, record.settings, record.metrics)

    def save_clock(self) -> None:
        """Save the working time for the next session; every outcome saves it too."""
        self._study.set_user_attr("worked_seconds", round(self.worked_seconds, 3))
        spent = self.spent_seconds + self.running_seconds
        self._study.set_user_attr("spent_seconds", round(spent, 3))

    def find_obstacle(self, metrics: Mapping[str, float], ceiling: float) -> Obstacle | None:
        """Return why a network need not be trained further; None while it may enter the front.

        Args:
            metrics: Metrics of the network so far.
            ceiling: Upper bound on mIoU, in 0..1, while few networks have finished.
        """
        excess = self._describe_excess(metrics)
        if excess:
            return Obstacle(excess, "limit")
        if not self.config.stop_hopeless or not self._knows_costs(metrics):
            return None
        found = self._finished.find_dominating(metrics, ceiling)
        if found is None:
            return None
        number, bound = found
        text = f"even with mIoU {bound:.3f}, the best believable, trial {number} would dominate it"
        return Obstacle(text, "bound")

    def _knows_costs(self, metrics: Mapping[str, float]) -> bool:
        """Whether all costs are known by which a trained network is judged beside its accuracy."""
        costs = {n for n in self.config.objectives if OBJECTIVES[n].direction == "minimize"}
        return costs | set(SIZES) <= metrics.keys()

    def _describe_excess(self, metrics: Mapping[str, float]) -> str:
        """Say which limit a network exceeds; "" if none, as far as its metrics are known."""
        for name, limit in self.config.limits.items():
            if metrics.get(name, 0.0) > limit:
                return f"{name} {metrics[name]:g} is above its limit {limit:g}"
        return ""

    def _get_running(self, number: int) -> tuple[Trial, TrialRecord]:
        trial, record = self._trials.get(number), self.records.get(number)
        if trial is None or record is None or record.state != "running":
            raise ValueError(f"trial {number} is not running, so it cannot be given an outcome")
        return trial, record

    def _constrain(self, metrics: Mapping[str, float]) -> dict[str, float]:
        """Return by how much a network exceeds each limit, as a share of it; feasible up to 0."""
        return {
            name: metrics[name] / limit - 1
            for name, limit in self.config.limits.items()
            if name in metrics
        }

    def _set_constraints(self, trial: Trial, metrics: Mapping[str, float]) -> None:
        """Give Optuna a trial's constraints, unless a rung has set them already."""
        known = read_trial(self._study, get_trial_id(trial)).constraints
        for name, value in self._constrain(metrics).items():
            if name not in known:
                trial.set_constraint(name, value)

    def _enqueue_first_points(self) -> None:
        """Enqueue the chains along the pruning ratios and the given points as first trials."""
        planned = self._plan_first()[: self.config.num_pipelines]
        trials = self._study.get_trials(deepcopy=False)
        own = [trial.number for trial in trials if EARLIER not in trial.user_attrs]
        numbers = [*own, *range(len(trials), len(trials) + len(planned))]
        for point in planned[len(own) :]:  # a killed driver may have added some of them
            params = self._select_searched(point.settings)
            attributes: dict[str, Any] = {
                CONTINUES: None if point.previous is None else numbers[point.previous]
            }
            if point.is_link:
                attributes[FIRST_CHAIN] = True
            self._enqueue(params, attributes)

    def _plan_first(self) -> list[_Planned]:
        """Plan the chains along the pruning ratios, and the given points after them."""
        space = self.config.space
        given = [flatten_chain(build_chain(self._stages, p)) for p in self.config.first_points]
        points = [point for point in given if space.contains(point)]
        points = points or [space.move_inside(self._stages, point) for point in given[:1]]
        planned: list[_Planned] = []
        if self._loop is not None and self.config.begin_with_sweeps:
            first = points[0] if points else space.move_inside(self._stages, {})
            sweeps = plan_sweeps(
                self._loop,
                space,
                first,
                self.config.num_pipelines,
                in_turn=self.runs_chains_in_turn,
            )
            points = points[1:] if sweeps else points
            own = declare_all(self._loop.chosen)
            for sweep in sweeps:
                for index, point in enumerate(sweep):
                    inherits = {n: v for n, v in point.items() if n in own} if index else point
                    previous = len(planned) - 1 if index else None
                    planned.append(_Planned(inherits, previous, is_link=True))
        return [*planned, *map(_Planned, points)]

    def _select_searched(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return those of a pipeline's settings that are searched."""
        return {name: value for name, value in settings.items() if name in self._distributions}

    @property
    def _draws_at_random(self) -> bool:
        """True while too few trials have finished for the sampler to leave its random start-up."""
        starts = count_random_starts(self.config.sampler, self.config.num_pipelines)
        missing = max(0, starts - self._num_known)
        finished = (
            number
            for number, record in self.records.items()
            if record.state in ("complete", "stopped") or self._estimates.knows(number)
        )
        return len(list(islice(finished, missing))) < missing

    def _enqueue_prefix(self, ready: Collection[Prefix]) -> None:
        """Let the next trial share a trained stage, unless a given point is next."""
        if self._enqueued or not self.config.shared_prefix:
            return
        proposed = [record.settings for record in self.records.values()]
        seed = derive_seed(self.config.seed, len(proposed))
        prefix = choose_prefix(self.config.space, self._stages, proposed, ready, seed=seed)
        if prefix:
            self._enqueue(prefix)

    def _enqueue(self, params: dict[str, Any], attributes: dict[str, Any] | None = None) -> None:
        self._study.enqueue_trial(params, user_attrs=attributes)
        self._enqueued.append(attributes or {})

    def _read(self, trial: FrozenTrial) -> TrialRecord:
        attributes = trial.user_attrs
        states: dict[TrialState, Any] = {
            TrialState.COMPLETE: "complete",
            TrialState.FAIL: "failed",
            TrialState.PRUNED: "stopped",
        }
        state = states.get(trial.state, "running")
        # Journals of older versions have a separate attribute for every field.
        outcome = attributes.get("outcome", attributes)
        names = ("metrics",) if state == "running" else _OUTCOME_FIELDS
        for stage, name in outcome.get("stages", {}).items():
            if not is_plain_name(name):  # the folder may later be deleted or written to
                raise ValueError(
                    f"{JOURNAL_FILE}: stage {stage!r} of trial {trial.number} is {name!r}, not the "
                    "name of a folder in stages/"
                )
        continues = attributes.get(CONTINUES)
        settings = self.config.space.complete(self._stages, trial.params)
        if continues is not None:
            settings |= self._inherit(continues)
        return TrialRecord(
            number=trial.number,
            state=state,
            settings=settings,
            continues=attributes.get(CONTINUES_INSTEAD, continues),
            started_at=_format_time(trial.datetime_start),
            **{name: outcome[name] for name in names if name in outcome},
        )


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, FloatDistribution):
        low, high = distribution.low, distribution.high
        return trial.suggest_float(name, low, high, step=distribution.step, log=distribution.log)
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    raise TypeError(f"{name}: {type(distribution).__name__} is not part of SearchSpace")


def _is_finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _format_time(moment: datetime | None) -> str:
    """Format Optuna's local time without a zone as ISO 8601 in UTC."""
    return moment.astimezone(UTC).isoformat(timespec="seconds") if moment else ""
