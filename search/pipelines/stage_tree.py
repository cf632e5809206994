"""The pipelines of a study as paths in a tree of stages, which shows what can run and has ended."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from itertools import accumulate, pairwise
from typing import Any, Literal, NamedTuple

from trainables.chain import Chain, Prefix, describe_settings, flatten_chain, freeze
from trainables.pipeline import StageResult, merge_results
from trainables.settings import flatten
from trainables.stages import STAGES, NetworkStage
from trainables.stages.teacher import TeacherStage

LONGEST_LABEL = 150
NodeState = Literal["open", "running", "done", "failed"]


class Task(NamedTuple):
    """A stage that can run now.

    Attributes:
        node: Name of the stage's node in the tree.
        chain: The first pipeline that needs the stage, up to this stage.
        label: Name in tables; it contains only characters that a folder's name may have.
        share: Fraction of the stage's steps, in 0..1, after which it pauses; 1 runs it to the end.
        begin: Fraction of the steps that the task before it has done, if the stage has paused.
        fine_tuning_seed: Seed of a retraining (`search.pipelines.confirmation`); None for a stage
            of a pipeline, which uses the study's seed.
        baseline: Name of the uncompressed network that the stage belongs to; "" for a stage of a
            pipeline.
        places: Number of places of the machines that a pipeline's training takes; it divides each
            batch among them.
        is_ahead: Whether only the part of the stage is done that needs no stage before it
            (`search.pipelines.work_ahead`).
    """

    node: str
    chain: Chain
    label: str
    share: float = 1.0
    begin: float = 0.0
    fine_tuning_seed: int | None = None
    baseline: str = ""
    places: int = 1
    is_ahead: bool = False

    @property
    def stage(self) -> str:
        """Name of the stage."""
        return self.chain[-1].stage

    @property
    def is_root(self) -> bool:
        """Whether the stage makes an uncompressed network."""
        return len(self.chain) == 1


class Ending(NamedTuple):
    """A pipeline that is complete or has failed.

    Attributes:
        number: Number of the pipeline, or name of the baseline.
        chain: Its steps.
        result: Merged result of its stages.
        reason: Reason why it failed; "" if it is complete.
    """

    number: int | str
    chain: Chain
    result: StageResult
    reason: str


@dataclass(kw_only=True, slots=True)
class _Node:
    """A stage in the tree.

    Attributes:
        task: Task that runs the stage.
        age: Number of nodes that were added before this one.
        parents: Nodes whose results the stage reads.
        children: Nodes that read this stage's result.
        waiting: Open pipelines whose path contains the node, oldest first (an ordered set).
        state: State of the stage.
        result: Result of the stage once it is done.
        reason: Reason why it failed.
        is_held: Whether it waits for a promotion.
    """

    task: Task
    age: int
    parents: tuple[str, ...]
    children: list[str] = field(default_factory=list)
    waiting: dict[int | str, None] = field(default_factory=dict)
    state: NodeState = "open"
    result: StageResult = field(default_factory=StageResult)
    reason: str = ""
    is_held: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class _Path:
    """The nodes of a pipeline.

    Attributes:
        nodes: Node names, root first.
        chain: Step of each node.
        rungs: Those of the nodes after which the pipeline itself pauses.
        helpers: Nodes outside the path that its stages read: the teacher's.
    """

    nodes: tuple[str, ...]
    chain: Chain
    rungs: tuple[str, ...] = ()
    helpers: tuple[str, ...] = ()


class StageTree:
    """Shares stages between pipelines whose settings are equal up to that stage.

    A stage is handed out once, as soon as the stages that it reads are done, so a waiting pipeline
    holds no machine. Among the stages that can run, the deepest comes first, because a sampler
    learns only from pipelines that end.

    The last stage of a pipeline that can pause is divided at the rungs: it pauses there, and
    continues once it is promoted.

    The stages that can run are kept in a queue, so that a decision among ten thousand pipelines
    takes as long as one among ten.

    Source: the stage trees of Shin et al., "Hippo", https://arxiv.org/abs/2006.11972, section 3.

    Args:
        baselines: Chains of the uncompressed networks by name, the teacher's first.
        rungs: Fractions of the pausing stage's steps at which it pauses, ascending, in 0..1.

    Attributes:
        trained: Settings of each chain up to a stage whose training is done.
    """

    def __init__(self, baselines: Mapping[str, Chain], rungs: Sequence[float] = ()) -> None:
        self._shares = (*rungs, 1.0)
        self._nodes: dict[str, _Node] = {}
        self._paths: dict[int | str, _Path] = {}
        self._num_open = 0
        self._paid: dict[str, int | str] = {}
        self._queue: list[tuple[float, int, str]] = []  # minus depth, age, node
        self._ending: dict[int | str, None] = {}
        self._released: dict[int | str, None] = {}
        self.trained: set[Prefix] = set()
        roots = [chain[:1] for chain in baselines.values()]
        # A separate teacher has a root stage of its own; without one each student teaches itself.
        self._teacher = _name_nodes(roots[0])[0] if len({r[0].stage for r in roots}) > 1 else ""
        for name, chain in baselines.items():
            self._add(name, chain)

    @property
    def open_pipelines(self) -> tuple[int, ...]:
        """Numbers of the pipelines that were added and have not ended."""
        return tuple(number for number in self._paths if isinstance(number, int))

    @property
    def num_open(self) -> int:
        """Number of the open pipelines."""
        return self._num_open

    def is_open(self, number: int) -> bool:
        """Whether a pipeline was added and has not ended."""
        return number in self._paths

    def add(self, number: int, chain: Chain) -> None:
        """Add a pipeline; it shares the stages that it has in common with others.

        Args:
            number: Number of the pipeline; no open one has it.
            chain: Steps of the pipeline.
        """
        self._add(number, chain)

    def promote(self, number: int) -> None:
        """Continue a pipeline that has paused at a rung.

        Args:
            number: Number of an open pipeline.
        """
        held = [name for name in self._paths[number].nodes if self._nodes[name].is_held]
        if held:
            self._release(held[0])

    def take_released(self) -> tuple[int | str, ...]:
        """Return the pipelines whose next part has ceased to wait for a promotion since last time.

        A promotion releases the part for all pipelines with the same settings, and a pipeline that
        continues from its network releases it too.
        """
        released, self._released = tuple(self._released), {}
        return released

    def take(
        self,
        *,
        may_be_exclusive: bool = True,
        may_start: Callable[[Task], bool] = lambda task: True,
    ) -> Task | None:
        """Return the deepest stage that can run, the oldest of equals; None if there is none.

        A stage that no open pipeline needs any more is not handed out.

        Args:
            may_be_exclusive: Whether a stage that needs a whole device may run now.
            may_start: Function that says whether a stage may start. A stage that may not is
                considered again at the next call.
        """
        passed = []
        taken = None
        while self._queue and taken is None:
            entry = heappop(self._queue)
            node = self._nodes[entry[-1]]
            if not self._may_run(entry[-1]):
                continue
            if STAGES[node.task.stage].is_exclusive and not may_be_exclusive:
                passed.append(entry)
                continue
            if not may_start(node.task):
                passed.append(entry)
                continue
            node.state = "running"
            taken = node.task
        for entry in passed:
            heappush(self._queue, entry)
        return taken

    def count_ready(self, most: int, may_start: Callable[[Task], bool]) -> int:
        """Count the stages that can run now.

        Args:
            most: Number at which the count ends.
            may_start: Function that says whether a stage may start now.
        """
        ready: set[str] = set()
        for _, _, name in self._queue:
            if len(ready) >= most:
                break
            if self._may_run(name) and may_start(self._nodes[name].task):
                ready.add(name)
        return len(ready)

    def list_claims(self, chain: Chain) -> tuple[int | str, ...]:
        """List the open pipelines and baselines whose last stage of a chain is still to start."""
        node = self._nodes.get(_name_nodes(chain)[-1])
        return tuple(node.waiting) if node is not None and node.state == "open" else ()

    def has_failed(self, chain: Chain) -> bool:
        """Whether a stage of a chain has failed."""
        parts = [_at(name, share) for name in _name_nodes(chain) for share in self._shares]
        return any(self._nodes[p].state == "failed" for p in parts if p in self._nodes)

    def finish(self, node: str, result: StageResult) -> list[Ending]:
        """Record that a stage is done.

        Args:
            node: Node of the task that was handed out.
            result: Result of the stage.

        Returns:
            The pipelines that this completes.
        """
        entry = self._nodes[node]
        entry.state, entry.result = "done", result
        if STAGES[entry.task.stage].trains and entry.task.share == 1:
            self.trained.add(freeze(flatten_chain(entry.task.chain)))
        for child in entry.children:
            self._enqueue(child)
        self._ending |= {n: None for n in entry.waiting if self._paths[n].nodes[-1] == node}
        return self.settle()

    def fail(self, node: str, reason: str) -> list[Ending]:
        """Record that a stage has failed, and with it every pipeline that needs it.

        Args:
            node: Node of the task that was handed out.
            reason: Reason in one line.

        Returns:
            The pipelines that fail with it.
        """
        entry = self._nodes[node]
        entry.state, entry.reason = "failed", reason
        self._ending |= entry.waiting
        return self.settle()

    def retry(self, node: str) -> None:
        """Make a stage available again after a failed attempt, if a pipeline still needs it.

        Args:
            node: Node of the task that was handed out.
        """
        self._nodes[node].state = "open"
        self._enqueue(node)

    def settle(self) -> list[Ending]:
        """Remove the pipelines that have ended, and return them.

        A new pipeline ends at once if all of its stages are done, or one of them has failed.
        """
        endings = []
        for number in tuple(self._ending):
            path = self._paths[number]
            nodes = [self._nodes[name] for name in (*path.helpers, *path.nodes)]
            reason = next((node.reason for node in nodes if node.state == "failed"), "")
            endings.append(Ending(number, nodes[-1].task.chain, self.drop(number), reason))
        return endings

    def drop(self, number: int | str) -> StageResult:
        """Remove a pipeline; stages that no other pipeline needs are not handed out any more.

        Args:
            number: Number of an open pipeline.

        Returns:
            Merged result of its stages so far.
        """
        result = self.get_result(number)
        path = self._paths.pop(number)
        self._num_open -= isinstance(number, int)
        for name in (*path.helpers, *path.nodes):
            del self._nodes[name].waiting[number]
        self._ending.pop(number, None)
        return result

    def waiting_for(self, node: str) -> tuple[int, ...]:
        """Return the open pipelines whose path contains a stage."""
        return tuple(number for number in self._nodes[node].waiting if isinstance(number, int))

    def pausing_at(self, node: str) -> tuple[int, ...]:
        """Return the open pipelines that pause after a stage; others go on to another network."""
        return tuple(
            number for number in self.waiting_for(node) if node in self._paths[number].rungs
        )

    def list_rungs(self, number: int) -> list[tuple[float, bool]]:
        """List the rungs that an open pipeline has reached: share, and whether it waits there.

        Args:
            number: Number of the pipeline.
        """
        path = self._paths[number]
        reached = [
            (self._nodes[name], self._nodes[following])
            for name, following in pairwise(path.nodes)
            if name in path.rungs
        ]
        return [(n.task.share, following.is_held) for n, following in reached if n.state == "done"]

    def list_waiting(self, node: str) -> tuple[int | str, ...]:
        """The open pipelines and baselines that need a stage."""
        return tuple(self._nodes[node].waiting)

    def list_left(self, number: int | str) -> list[Task]:
        """The stages that an open pipeline or baseline needs and that are not done.

        Args:
            number: Number of the pipeline, or name of the baseline.
        """
        path = self._paths[number]
        nodes = [self._nodes[name] for name in dict.fromkeys((*path.helpers, *path.nodes))]
        return [node.task for node in nodes if node.state != "done"]

    def get_result(self, number: int | str) -> StageResult:
        """Merge the results so far of an open pipeline's stages.

        The seconds of a shared stage are charged to the pipeline that needed it first.
        """
        path = self._paths[number]
        results = [self._get_charged(name, number) for name in path.nodes]
        merged = merge_results(path.chain, results)
        for helper in path.helpers:  # the teacher, whose stage has another name if it is given
            result = self._get_charged(helper, number)
            name = (TeacherStage.name,)
            stages = dict(zip(name, result.stages.values(), strict=False))  # none before its end
            seconds = dict(zip(name, result.seconds.values(), strict=False))
            merged = StageResult(stages=stages, seconds=seconds) | merged
        return merged

    def _get_charged(self, node: str, number: int | str) -> StageResult:
        result = self._nodes[node].result
        if self._paid.get(node) == number:
            return result
        return replace(result, seconds=dict.fromkeys(result.seconds, 0.0))

    def _add(self, number: int | str, chain: Chain) -> None:
        names: list[str] = []
        steps: list[Any] = []
        rungs: list[str] = []
        network, helpers = "", dict[str, None]()
        whole = _name_nodes(chain)
        pausing = [index for index, step in enumerate(chain) if STAGES[step.stage].can_pause]
        for index, step in enumerate(chain):
            is_last = index in pausing[-1:]
            shares = self._find_shares(whole[index], is_last=is_last)
            reads = [names[-1]] if names else []
            if network and network not in reads:
                reads.append(network)
            if STAGES[step.stage].needs_teacher(step.settings):
                teacher = self._teacher or names[0]
                reads.append(teacher)
                helpers |= {teacher: None} if self._teacher else {}
            for begin, share in pairwise((0.0, *shares)):
                node = _at(whole[index], share)
                part = Task(node, chain[: index + 1], "", share, begin)
                self._grow(part, number, tuple(reads), is_last=is_last)
                reads = [node, *(name for name in reads if name in helpers)]
                names.append(node)
                steps.append(step)
                if is_last and share < 1:
                    rungs.append(node)
            if issubclass(STAGES[step.stage], NetworkStage):
                network = names[-1]
        path = _Path(
            nodes=tuple(names), chain=tuple(steps), rungs=tuple(rungs), helpers=tuple(helpers)
        )
        self._num_open += isinstance(number, int)
        self._paths[number] = path
        for name in (*path.helpers, *path.nodes):
            self._nodes[name].waiting[number] = None
            self._enqueue(name)
        states = [self._nodes[name].state for name in (*path.helpers, *path.nodes)]
        if states[-1] == "done" or "failed" in states:
            self._ending[number] = None

    def _find_shares(self, node: str, *, is_last: bool) -> tuple[float, ...]:
        """Return the shares at which a stage has nodes in a pipeline.

        Args:
            node: Node of the whole stage.
            is_last: Whether it is the pipeline's last stage that can pause. An earlier one pauses
                only as another pipeline's last stage, whose nodes this pipeline then needs too.
        """
        if is_last:
            return self._shares
        return tuple(s for s in self._shares if _at(node, s) in self._nodes) or (1.0,)

    def _grow(
        self, task: Task, number: int | str, parents: tuple[str, ...], *, is_last: bool
    ) -> None:
        node, can_pause = task.node, STAGES[task.stage].can_pause
        if node in self._nodes:
            if not (can_pause and is_last):
                self._release(node)  # another pipeline continues from its result
            return
        baseline = "" if isinstance(number, int) else number
        task = task._replace(label=_describe(number, task.chain), baseline=baseline)
        self._nodes[node] = _Node(
            task=task,
            age=len(self._nodes),
            parents=parents,
            is_held=can_pause and is_last and task.share != self._shares[0],
        )
        self._paid[node] = number
        for parent in parents:
            self._nodes[parent].children.append(node)

    def _release(self, name: str) -> None:
        node = self._nodes[name]
        if node.is_held:
            node.is_held = False
            self._released |= node.waiting
            self._enqueue(name)

    def _may_run(self, name: str) -> bool:
        node = self._nodes[name]
        return (
            node.state == "open"
            and not node.is_held
            and bool(node.waiting)
            and all(self._nodes[parent].state == "done" for parent in node.parents)
        )

    def _enqueue(self, name: str) -> None:
        """Queue a stage if it can run; `take` checks again, because that may change."""
        if self._may_run(name):
            task = self._nodes[name].task
            heappush(self._queue, (-len(task.chain) - task.share, self._nodes[name].age, name))


def _name_nodes(chain: Chain) -> list[str]:
    """Name the node of each stage after everything that it depends on within a study."""
    steps = (f"{stage} {sorted(flatten(settings).items())}" for stage, settings in chain)
    return list(accumulate(steps, "{} > {}".format))


def _at(node: str, share: float) -> str:
    """Name the node of a part of a stage."""
    return node if share == 1 else f"{node} > {share}"


def _describe(number: int | str, chain: Chain) -> str:
    """Return the label of a stage, in characters that a folder's name may have.

    The name of a student may be the path of a file.
    """
    stage = chain[-1].stage
    if isinstance(number, str):
        label = number if len(chain) == 1 else f"{stage} {number}"
    elif STAGES[stage].can_pause:
        label = f"{stage} {number}"
    else:
        chosen = describe_settings(flatten_chain(chain)).replace("λ", "lambda").replace(",", "")
        is_continued = len({step.stage for step in chain}) < len(chain)
        label = f"{stage} {chosen}" + (f" of {number}" if is_continued else "")
    label = re.sub(r"[/\\:]+", "-", label).strip("-")
    return label if len(label) <= LONGEST_LABEL else f"{label[:30]}...{label[33 - LONGEST_LABEL :]}"
