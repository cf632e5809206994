"""Decides, without a cluster, which stage runs next, which runs again and which pipelines stop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from search.pipelines.confirmation import Confirmation
from search.pipelines.late_teacher import LateTeacher
from search.pipelines.places import Places
from search.pipelines.records import Outcome, StoppedBy
from search.pipelines.retries import Failure, ObstacleError, Retries
from search.pipelines.rungs import Rungs
from search.pipelines.stage_seconds import StageSeconds
from search.pipelines.stage_tree import Ending, StageTree, Task
from search.pipelines.study import PipelineStudy
from search.pipelines.time_budget import TimeBudget
from search.pipelines.work_ahead import WorkAhead
from trainables.chain import Chain
from trainables.pipeline import (
    Baseline,
    StageResult,
    build_baselines,
    build_stages,
    describe_baseline,
)
from trainables.stages import STAGES
from trainables.stages.teacher import TeacherStage

OPEN_PIPELINES_PER_PLACE = 2
LEAST_SHARED_SECONDS = 60.0  # a shorter training ends before its other processes have started
MOST_REFUSED = 8  # stages without the time for them, above which no further pipeline is asked for


class Dispatcher:
    """Asks the study for pipelines and hands out their stages as soon as they can run.

    A stage that several pipelines share runs once, and a pipeline that waits for a stage holds no
    worker. A stage whose worker failed runs again after some time, as often as
    `search.pipelines.retries` allows. After that the pipelines that need it fail, and the search
    continues. Once all pipelines have ended, the dispatcher hands out the retrainings of the front.
    A separate teacher may be trained late (`search.pipelines.late_teacher`).
    Its whole state is in the study and in the artefacts on disk.

    Args:
        study: Study that proposes the pipelines and records their outcomes.
        places: How many stages run at a time.
        works_ahead: Whether free places do work for later stages while the uncompressed networks
            train (`search.pipelines.work_ahead`).
        on_change: Called with a line for the user when a stage will run again, a pipeline takes
            another course, or the failure of an uncompressed network ends the search.
        confirmation: Retrainings of the front; None if there are none.
        budget: Time of the study. Default: one without a limit.

    Attributes:
        budget: The argument `budget`.
        baselines: Uncompressed networks that are trained and measured, by name.
        baseline_errors: Errors of failed baselines by name; any error ends the search.
        problem: Error that makes it useless to continue, such as a full disk. It ends the search,
            and unfinished pipelines are left for the next session.
        is_out_of_time: Whether no stage runs and none of those that are left fits into the time.
            This ends the search in the same way.
    """

    def __init__(
        self,
        study: PipelineStudy,
        places: Places,
        *,
        works_ahead: bool = False,
        on_change: Callable[[str], None] = lambda text: None,
        confirmation: Confirmation | None = None,
        budget: TimeBudget | None = None,
    ) -> None:
        self.study = study
        self.baselines: dict[str, Baseline] = {}
        self.baseline_errors: dict[str, str] = {}
        self.problem: Exception | None = None
        self.budget = budget or TimeBudget(StageSeconds(study.config, {}))
        self.is_out_of_time = False
        study.runs_chains_in_turn = places.runs_in_turn
        self._baseline_chains = build_baselines(study.config.pipeline)
        self._tree = StageTree(self._baseline_chains, study.config.rungs)
        self._late_teacher: LateTeacher | None = None
        if study.begins_untaught and self._trains_teacher:
            self._late_teacher = LateTeacher(self._tree, self._baseline_chains)
        is_late = {TeacherStage.name} if self._late_teacher else set()
        self._roots = [c[:1] for name, c in self._baseline_chains.items() if name not in is_late]
        self._rungs = Rungs(study)
        self._confirmation = confirmation
        self._places = places
        self._ahead = WorkAhead() if works_ahead else None
        self._on_change = on_change
        self._retries = Retries()
        self._running: dict[str, Task] = {}
        self._followers: dict[int, int] = {}  # open pipelines that continue one that still runs
        self._is_exhausted = False
        self._is_making_room = False
        self._num_refused = 0

    @property
    def open_results(self) -> list[StageResult]:
        """Results so far of the pipelines that have not ended."""
        return [self._tree.get_result(number) for number in self._tree.open_pipelines]

    @property
    def num_open(self) -> int:
        """Number of pipelines that have not ended."""
        return self._tree.num_open

    @property
    def num_paused(self) -> int:
        """Pipelines that wait at a rung."""
        return len(self._rungs.paused)

    def list_open(self) -> list[list[Task]]:
        """Stages that each network and each pipeline still needs that does not wait at a rung."""
        names: list[int | str] = [n for n in self._baseline_chains if n not in self.baselines]
        names += [n for n in self._tree.open_pipelines if n not in self._rungs.paused]
        return [self._list_left(name) for name in names if name not in self.baseline_errors]

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to run, or a problem or the time has ended the search."""
        if self.baseline_errors or self.problem or self.is_out_of_time:
            return True
        is_busy = self._running or self._retries.is_waiting or self._tree.open_pipelines
        return self._is_exhausted and not (is_busy or self._is_any_baseline_missing)

    def take(self) -> Task | None:
        """Return the next stage to run; None to wait, or because the study `is_over`."""
        if self.baseline_errors or self.problem or self.is_out_of_time:
            return None
        self._num_refused = 0
        with self.study.batch():  # write all changes of one decision to disk at once
            self._go_on()
            if self._count_free(with_roots=False) < 1 or self._is_occupied:
                return None
            is_root_due = self._is_root_left or (self._is_making_room and self._is_teacher_due)
            if is_root_due and not self._has_room_for_root:
                return None
            task = self._next_root() if is_root_due else None
            task = task or self._next_task() or self._next_retraining() or self._next_ahead()
            task = task or self._next_begun()
            is_idle = task is None and not self._trains_root
            self._is_making_room = is_idle and self._is_teacher_due
            if task is not None:
                task = task._replace(places=self._choose_places(task))
        if task is not None:
            self._running[task.node] = task
            self.budget.hand_out(task)
        elif self._num_refused and not self._running and not self._retries.is_waiting:
            self.is_out_of_time = True
        return task

    def finish(self, task: Task, result: StageResult) -> None:
        """Record the result of a stage, and tell the study of every pipeline that ends with it."""
        del self._running[task.node]
        was_run = sum(result.seconds.values()) > 0
        seconds = self.budget.end(task, was_run=was_run, elapsed=result.elapsed)
        self.study.spent_seconds += seconds
        if task.is_ahead:
            return
        if self._confirmation is not None and task.fine_tuning_seed is not None:
            self._confirmation.finish(task.node, result)
            return
        with self.study.batch():
            self._tell(self._tree.finish(task.node, result))
            if task.share < 1:
                for number in self._tree.pausing_at(task.node):
                    self._note_rungs(number)
            elif result.metrics:
                for number in self._tree.waiting_for(task.node):
                    self._stop_if_hopeless(number)

    def fail(self, task: Task, reason: str) -> None:
        """Record that a stage has failed, and with it every pipeline that needs it."""
        if self._running.pop(task.node, None) is not None:
            self.study.spent_seconds += self.budget.end(task, was_run=False)
        if task.is_ahead:
            return  # the stage itself will meet the error
        if self._confirmation is not None and task.fine_tuning_seed is not None:
            self._confirmation.fail(task.node, reason)
            return
        if task.baseline:
            self.baseline_errors[task.baseline] = reason
            self._on_change(f"{task.baseline} failed: {reason}; no further stage starts")
        self._tell(self._tree.fail(task.node, f"{task.stage}: {reason}"))

    def retry(self, task: Task, failure: Failure) -> None:
        """Run a stage again whose worker failed, or let it fail after its last attempt."""
        del self._running[task.node]
        self.study.spent_seconds += self.budget.end(task, was_run=False)
        if task.is_ahead:
            return
        seconds = self._retries.postpone(task.node, failure.fault)
        if seconds is not None:
            self._on_change(f"{task.label} is run again in {seconds:g} s: {failure.reason}")
        elif failure.fault == "surroundings":
            self.problem = ObstacleError(f"{task.label}: {failure.reason}")
        else:
            times = self._retries.count(task.node)
            self.fail(task, f"{failure.reason}; tried {times} times")

    def _next_task(self) -> Task | None:
        """Take the next stage of the tree; add pipelines until there is one."""
        while True:
            was_exhausted = self._is_exhausted
            task = self._tree.take(
                may_be_exclusive=self._may_be_exclusive, may_start=self._may_start
            )
            if task is not None and STAGES[task.stage].trains and self._give_up(task):
                continue
            if task is not None:
                return task
            is_opened = self._open_next(beside=bool(self._running))
            if not is_opened and self._is_exhausted == was_exhausted:
                return None

    def _open_next(self, *, beside: bool) -> bool:
        """Ask the study for one more pipeline; False if enough are open, or there are no more.

        Args:
            beside: Whether a stage runs or is about to start; then none is opened beside a first
                chain that uses all places.
        """
        if beside and self._reserves_places:
            return False
        is_early = self._ahead is not None and self.study.has_planned and self._count_free() > 0
        if self._is_full or not (self._has_students or is_early):
            return False
        if self._num_refused > MOST_REFUSED or self.budget.is_used_up:
            self._num_refused += 1
            return False
        proposal = self.study.ask(self._tree.trained)
        if proposal is None:
            self._is_exhausted = True
            return False
        self._add(proposal.number, proposal.chain)
        return True

    def _next_begun(self) -> Task | None:
        """Take a stage that an earlier session has begun, once none that is left fits.

        It continues from its saved state, so that a training longer than the time limit ends after
        some sessions.
        """
        if not self._num_refused or self._retries.is_waiting or self.budget.is_used_up:
            return None
        if not all(self.budget.has_begun(task.chain) for task in self._running.values()):
            return None  # what follows a running stage may fit
        return self._tree.take(may_start=self._leads_to_begun)

    def _leads_to_begun(self, task: Task) -> bool:
        """Whether a stage has been begun, or is one of the finished ones before such a stage."""
        if self._places.runs_alone(task) and not self._has_room_for_root:
            return False
        left = (
            later.chain
            for name in self._tree.list_waiting(task.node)
            for later in self._tree.list_left(name)
        )
        length = len(task.chain)
        return any(chain[:length] == task.chain and self.budget.has_begun(chain) for chain in left)

    def _add(self, number: int, chain: Chain) -> None:
        """Add a pipeline to the tree; it may end at once."""
        self._tree.add(number, chain)
        self._note_released()
        origin = self.study.records[number].continues
        if origin is not None:
            self._followers[number] = origin
        if self._ahead is not None:
            self._ahead.add(chain)
        self._tell(self._tree.settle())
        if self._tree.is_open(number):
            self._note_rungs(number)  # an equal pipeline may have reached some
            self._stop_if_hopeless(number)
            if number in self._rungs.paused:
                self._promote()

    def _note_rungs(self, number: int) -> None:
        """Record which rungs a pipeline has reached, and whether it waits there."""
        reached = self._tree.list_rungs(number)
        if not reached:
            return
        metrics = self._tree.get_result(number).metrics
        for share, waits in reached:
            self._rungs.pause(number, share, metrics)
            if not waits:
                self._rungs.note_passed(number)
        self.study.report(number, metrics)

    def _note_released(self) -> None:
        """Record which pipelines do not wait at their rung any more."""
        for number in self._tree.take_released():
            if isinstance(number, int):
                self._rungs.note_passed(number)

    def _next_ahead(self) -> Task | None:
        """Take work that can be done ahead while an uncompressed network trains."""
        if self._ahead is None or not self._trains_root or self.budget.is_used_up:
            return None
        if self._count_free() < 1:
            return None
        return self._ahead.take(
            is_taught=self._is_taught,
            may_measure=self._may_be_exclusive,
            list_claims=self._tree.list_claims,
        )

    def _choose_places(self, task: Task) -> int:
        """Choose on how many places a stage runs: on several if nothing else could use them.

        Every process gets at least two images of each batch, which may be a pair of frames.
        """
        if task.is_root:
            return self._places.of_root
        stage = STAGES[task.stage]
        most, is_retraining = self._places.most_per_training, task.fine_tuning_seed is not None
        if most == 1 or task.is_ahead or is_retraining or not (stage.trains and stage.schedule):
            return 1
        uses_threads = self._places.uses_threads
        if not uses_threads and 0 < self.budget.seconds.predict(task) < LEAST_SHARED_SECONDS:
            return 1
        free = self._count_free()
        if free < 2:
            return 1
        while (ready := self._count_ready(free)) < free and self._open_next(beside=True):
            pass
        if uses_threads:
            return max(1, min(free // (1 + ready), most))
        batch_size: int = getattr(self.study.config.pipeline, stage.schedule).batch_size
        processes = max(1, round(self._places.units_of_training / self._places.units))
        return max(1, min(free // (1 + ready), most, batch_size // 2 // processes))

    def _count_ready(self, most: int) -> int:
        """Count the stages that could start now, in time for a pipeline; `most` ends the count."""

        def may_start(task: Task) -> bool:
            return self._fits(self._tree.list_waiting(task.node))

        return self._tree.count_ready(most, may_start)

    def _count_free(self, *, with_roots: bool = True) -> int:
        """Count the places that no running stage holds.

        Args:
            with_roots: Whether the trainings of the uncompressed networks count too.
        """
        held = (t.places for t in self._running.values() if with_roots or not t.is_root)
        return self._places.count - sum(held)

    @property
    def _may_be_exclusive(self) -> bool:
        """Whether one more stage that needs a whole device may run now."""
        exclusive = sum(STAGES[task.stage].is_exclusive for task in self._running.values())
        return exclusive < self._places.exclusive

    @property
    def _is_taught(self) -> bool:
        """Whether the network that teaches all others is trained."""
        if self.study.config.pipeline.previous_teaches:
            return False  # each one has another teacher
        return next(iter(self._baseline_chains)) in self.baselines

    @property
    def _trains_root(self) -> bool:
        """Whether an uncompressed network trains."""
        return any(task.is_root for task in self._running.values())

    @property
    def _is_any_baseline_missing(self) -> bool:
        """Whether an uncompressed network is not trained and measured yet."""
        return len(self.baselines) < len(self._baseline_chains)

    @property
    def _trains_teacher(self) -> bool:
        """Whether a separate teacher has to be trained: its weights are neither given nor known."""
        root = self._baseline_chains.get(TeacherStage.name, ())[:1]
        if not root or self.budget.seconds.is_done(root):
            return False
        return build_stages(self.study.config.pipeline, root)[-1].trains

    @property
    def _has_room_for_root(self) -> bool:
        """Whether the places are free that the training of an uncompressed network takes."""
        return self._count_free() >= min(self._places.of_root, self._places.count)

    @property
    def _is_teacher_due(self) -> bool:
        """Whether a late teacher is all that is left, or a pipeline needs it that ends in time."""
        teacher = self._late_teacher
        if teacher is None or not teacher.is_left:
            return False
        if not self._tree.open_pipelines:
            return self._is_exhausted
        return self._has_students and bool(teacher.pipelines) and self._teaches_in_time

    @property
    def _teaches_in_time(self) -> bool:
        """Whether a pipeline that waits for a late teacher could end in time with it."""
        waiting = self._late_teacher.pipelines if self._late_teacher else ()
        return not waiting or self._fits(waiting)

    @property
    def _is_occupied(self) -> bool:
        """Whether a stage runs beside which nothing may start."""
        return any(self._places.runs_alone(task) for task in self._running.values())

    @property
    def _is_root_left(self) -> bool:
        """Whether an uncompressed network is still to train with nothing beside it, and fits.

        A late teacher does not count.
        """
        if not self._places.uses_threads:
            return False
        claims = [self._tree.list_claims(root) for root in self._roots]
        return any(names and self._fits(names) for names in claims)

    def _next_root(self) -> Task | None:
        """Take the training of an uncompressed network."""
        return self._tree.take(may_start=lambda task: task.is_root and self._may_start(task))

    def _may_start(self, task: Task) -> bool:
        """Whether a stage may start now."""
        teacher = self._late_teacher
        if teacher is not None and teacher.is_trained_by(task):
            is_beside = self._trains_root and teacher.is_every_student_ahead
            if not (self._has_room_for_root and (is_beside or self._is_teacher_due)):
                self._num_refused += not self._teaches_in_time
                return False
        return self._ends_in_time(task)

    def _ends_in_time(self, task: Task) -> bool:
        """Whether a pipeline, or a baseline, that needs a stage could end in time with it."""
        needed_by = self._tree.list_waiting(task.node)
        if self._fits(needed_by):
            return True
        # The refusal of a late teacher itself counts, for all that wait for it.
        untaught = set(self._late_teacher.pipelines) if self._late_teacher else set()
        self._num_refused += not untaught.issuperset(needed_by)
        return False

    def _fits(self, names: Iterable[int | str]) -> bool:
        """Whether one of these pipelines and baselines could end in time."""
        if self.budget.limit is None:
            return True
        left = (self.budget.find_remaining(self._list_left(name)) for name in names)
        return self.budget.fits(min(left))

    def _list_left(self, name: int | str) -> list[Task]:
        """The stages that a pipeline or baseline still needs, on the places that they will have."""
        left = self._tree.list_left(name)
        if not (self._places.runs_in_turn and self.study.is_in_first_chain(name)):
            return left
        every = self._places.count
        return [t._replace(places=every) if STAGES[t.stage].trains else t for t in left]

    @property
    def _is_full(self) -> bool:
        """Whether enough pipelines are open, besides those that wait for a promotion or another."""
        records = self.study.records
        self._followers = {
            number: origin
            for number, origin in self._followers.items()
            if self._tree.is_open(number) and records[origin].state == "running"
        }
        waiting = {*self._rungs.paused, *self._followers}
        if self._late_teacher is not None and not self._teaches_in_time:
            waiting |= set(self._late_teacher.pipelines)  # they will not end in this session
        num_open = self._tree.num_open - len(waiting)
        return num_open >= OPEN_PIPELINES_PER_PLACE * self._places.count

    @property
    def _reserves_places(self) -> bool:
        """Whether a first chain, which uses all places, is unfinished; all its links are open."""
        if not self._places.runs_in_turn or self.study.is_link_next:
            return False
        links = filter(self.study.is_in_first_chain, self._tree.open_pipelines)
        return any(self._fits((link,)) for link in links if link not in self._rungs.paused)

    @property
    def _has_students(self) -> bool:
        """Whether a first uncompressed student is finished, from which pipelines can begin."""
        return any(baseline.role == "student" for baseline in self.baselines.values())

    def _next_retraining(self) -> Task | None:
        """Take the next retraining, once no pipeline is open any more."""
        if not self._is_exhausted or (self._num_refused and self._tree.open_pipelines):
            return None
        if not self._running and not self._retries.is_waiting and self._tree.open_pipelines:
            self._stop_paused()
            if (task := self._next_task()) is not None:  # a teacher that no pipeline needed
                return task
        # A resumed search has no open pipeline until its baselines have been looked up. A teacher
        # that is still left here needs more time than there is, which may do for a retraining.
        is_left = self._late_teacher is not None and self._late_teacher.is_left
        is_early = self._tree.open_pipelines or (self._is_any_baseline_missing and not is_left)
        if is_early or self._confirmation is None:
            return None
        task = self._confirmation.take()
        if task is None or self.budget.fits(self.budget.find_remaining((task,))):
            return task
        self._confirmation.retry(task.node)
        self._num_refused += 1
        return None

    def _go_on(self) -> None:
        """Retry the stages whose time has come, and continue the pipelines that are promoted."""
        for node in self._retries.take_due():
            if self._confirmation is None or not self._confirmation.retry(node):
                self._tree.retry(node)
        self._promote()

    def _promote(self) -> None:
        """Continue the pipelines that are among the best of their rung."""
        while (number := self._rungs.promote()) is not None:
            if self._tree.is_open(number):
                self._tree.promote(number)
                self._note_released()

    def _stop_paused(self) -> None:
        """Stop the pipelines that wait at a rung and cannot be promoted any more."""
        with self.study.batch():
            for number in self._tree.open_pipelines:
                share = self._rungs.paused[number]
                self._stop(number, f"behind the front at {share:.0%} of its distillation", "rung")

    def _stop_if_hopeless(self, number: int) -> None:
        """Stop a pipeline whose pruned network cannot enter the front any more."""
        metrics = self._tree.get_result(number).metrics
        is_unknown = self._late_teacher is not None and TeacherStage.name not in self.baselines
        mious = [baseline.miou for baseline in self.baselines.values()]
        ceiling = 1.0 if is_unknown else max(mious, default=1.0)
        obstacle = self.study.find_obstacle(metrics, ceiling)
        if obstacle is not None:
            self._stop(number, obstacle.reason, obstacle.stopped_by)

    def _stop(self, number: int, reason: str, stopped_by: StoppedBy) -> None:
        self._rungs.paused.pop(number, None)
        result = self._tree.drop(number)
        self.study.tell(number, "stopped", reason=reason, stopped_by=stopped_by, result=result)

    def _give_up(self, task: Task) -> bool:
        """Stop the pipelines of a training that became hopeless while they waited for it.

        Returns:
            True if no pipeline needs the training any more.
        """
        waiting = self._tree.waiting_for(task.node)
        for number in waiting:
            self._stop_if_hopeless(number)
        if not waiting or self._tree.waiting_for(task.node):
            return False
        self._tree.retry(task.node)  # a later pipeline may need it
        return True

    def _tell(self, endings: Sequence[Ending]) -> None:
        pipelines: list[tuple[int, Ending]] = []
        for ending in endings:
            if isinstance(ending.number, int):
                pipelines.append((ending.number, ending))
            elif not ending.reason:  # `fail` has recorded why a baseline failed
                config = self.study.config.pipeline
                known = dict(self.baselines)
                known[ending.number] = describe_baseline(ending.number, config, ending.result)
                self.baselines = {n: known[n] for n in self._baseline_chains if n in known}
        if not pipelines or self.baseline_errors:
            return
        with self.study.batch():
            for number, ending in pipelines:
                self._rungs.paused.pop(number, None)
                if ending.reason and self._continue_earlier(number, ending.chain):
                    continue
                outcome: Outcome = "failed" if ending.reason else "complete"
                self.study.tell(number, outcome, reason=ending.reason, result=ending.result)

    def _continue_earlier(self, number: int, failed: Chain) -> bool:
        """Let a pipeline continue from an earlier network if the one that it needs has failed.

        Args:
            number: Number of the pipeline.
            failed: Its steps, one of which has failed.

        Returns:
            False if the pipeline itself has failed.
        """
        before = self.study.records[number].continues
        chain = self.study.continue_earlier(number, self._tree.has_failed)
        if chain is None or chain == failed:
            return False
        origin = self.study.records[number].continues
        if origin != before:
            start = "the uncompressed network" if origin is None else f"trial {origin}"
            reason = f"the network of trial {before} cannot be made"
            self._on_change(f"trial {number} continues from {start}, because {reason}")
        self._add(number, chain)
        return True
