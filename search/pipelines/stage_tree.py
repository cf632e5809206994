"""The pipelines of a study as paths in a tree of stages: what may run now, and what has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from heapq import heappop, heappush
from typing import Literal, NamedTuple

from trainables.distillers import DistillerConfig
from trainables.pipeline import BASELINES, PATH, StageResult, get_prefix
from trainables.pipeline_config import PipelineSettings

NodeState = Literal["open", "running", "done", "failed"]


class Task(NamedTuple):
    """A stage that may run now.

    Attributes:
        node: Its node in the tree.
        stage: Name of the stage.
        settings: Of the pipeline that asked for it first; None for a baseline.
        label: For people.
        share: Of the stage's steps after which it pauses, within 0..1; 1 ends it.
        fine_tuning_seed: Of a further fine-tuning (`search.pipelines.confirmation`); None: the
        study's.
    """

    node: str
    stage: str
    settings: PipelineSettings | None
    label: str
    share: float = 1.0
    fine_tuning_seed: int | None = None


class Ending(NamedTuple):
    """A pipeline that is through, or that cannot go on.

    Attributes:
        number: Of the pipeline.
        result: What its stages have brought so far.
        reason: Why it failed; empty when it is through.
    """

    number: int
    result: StageResult
    reason: str


@dataclass(kw_only=True, slots=True)
class _Node:
    """A stage in the tree.

    Attributes:
        task: Of the stage.
        age: Nodes that were there before it.
        parents: Nodes that it reads.
        children: Nodes that read it.
        waiting: Open pipelines whose path leads through it, by age; the values mean nothing.
        state: How far it is.
        result: What it brought, once done.
        reason: Why it failed.
        is_held: Whether it waits for a promotion.
    """

    task: Task
    age: int
    parents: tuple[str, ...]
    children: list[str] = field(default_factory=list)
    waiting: dict[int, None] = field(default_factory=dict)
    state: NodeState = "open"
    result: StageResult = field(default_factory=StageResult)
    reason: str = ""
    is_held: bool = False


class StageTree:
    """Shares the stages of pipelines whose settings agree up to there.

    A stage is handed out once, as soon as the stages that it reads are done, so that a pipeline
    that waits holds no machine. Of the stages that may run now the deepest comes first: a sampler
    learns from pipelines that end, not from pipelines that begin.

    The last stage may be cut at rungs: it pauses there, and goes on once it is promoted.

    What may run is kept in a queue, so that a decision takes as long among ten thousand pipelines
    as among ten.

    Source: the stage trees of Shin et al., "Hippo", https://arxiv.org/abs/2006.11972, section 3.

    Args:
        rungs: Shares of the last stage's steps after which it pauses, ascending, within 0..1.

    Attributes:
        trained_lambdas: Values of lambda whose sparse stage is done.
    """

    def __init__(self, rungs: Sequence[float] = ()) -> None:
        self._shares = (*rungs, 1.0)
        self._nodes: dict[str, _Node] = {}
        self._pipelines: dict[int, tuple[str, ...]] = {}
        self._paid: dict[str, int] = {}
        self._queue: list[tuple[float, int, str]] = []  # minus depth, age, node
        self._ending: dict[int, None] = {}
        self.trained_lambdas: set[float] = set()
        for stage in BASELINES:
            task = Task(stage, stage, None, stage)
            self._nodes[stage] = _Node(task=task, age=len(self._nodes), parents=())
            self._enqueue(stage)

    @property
    def open_pipelines(self) -> tuple[int, ...]:
        """Pipelines that were added and have not ended."""
        return tuple(self._pipelines)

    def add(self, number: int, settings: PipelineSettings) -> None:
        """Add a pipeline; it shares what other pipelines have in common with it.

        Args:
            number: Of the pipeline, new.
            settings: What it chooses.
        """
        path = ["dense"]
        for stage in PATH[1:-1]:
            node = f"{stage} {get_prefix(settings, stage)}"
            self._grow(node, stage, settings, number, parents=(path[-1],))
            path.append(node)
        teacher = ("teacher",) if DistillerConfig(name=settings.distiller).needs_teacher else ()
        for share in self._shares:
            node = f"{PATH[-1]} {get_prefix(settings, PATH[-1])} {share}"
            self._grow(node, PATH[-1], settings, number, (path[-1], *teacher), share)
            path.append(node)
        self._pipelines[number] = (*teacher, *path)
        for name in self._pipelines[number]:
            self._nodes[name].waiting[number] = None
            self._enqueue(name)
        states = [self._nodes[name].state for name in self._pipelines[number]]
        if states[-1] == "done" or "failed" in states:
            self._ending[number] = None

    def promote(self, number: int) -> None:
        """Let a pipeline that paused at a rung go on.

        Args:
            number: Of an open pipeline.
        """
        held = [name for name in self._pipelines[number] if self._nodes[name].is_held]
        if held:
            self._nodes[held[0]].is_held = False
            self._enqueue(held[0])

    def take(self) -> Task | None:
        """Hand out the deepest stage that may run now, the oldest of equals; None if there is none.

        The pipelines that wait for a stage are those that count: a stage that none needs any more
        is not handed out.
        """
        while self._queue:
            name = heappop(self._queue)[-1]
            if self._may_run(name):
                self._nodes[name].state = "running"
                return self._nodes[name].task
        return None

    def finish(self, node: str, result: StageResult) -> list[Ending]:
        """Note that a stage is done.

        Args:
            node: Of the task that was handed out.
            result: What it brought.

        Returns:
            The pipelines that are through by it.
        """
        entry = self._nodes[node]
        entry.state, entry.result = "done", result
        if entry.task.stage == "sparse" and entry.task.settings is not None:
            self.trained_lambdas.add(entry.task.settings.sparsity_lambda)
        for child in entry.children:
            self._enqueue(child)
        self._ending |= {n: None for n in entry.waiting if self._pipelines[n][-1] == node}
        return self.settle()

    def fail(self, node: str, reason: str) -> list[Ending]:
        """Note that a stage has failed, and with it every pipeline that needs it.

        Args:
            node: Of the task that was handed out.
            reason: Why, in one line.

        Returns:
            The pipelines that cannot go on.
        """
        entry = self._nodes[node]
        entry.state, entry.reason = "failed", reason
        self._ending |= entry.waiting
        return self.settle()

    def retry(self, node: str) -> None:
        """Hand a stage out again whose attempt has failed, if a pipeline still needs it.

        Args:
            node: Of the task that was handed out.
        """
        self._nodes[node].state = "open"
        self._enqueue(node)

    def settle(self) -> list[Ending]:
        """Take out the pipelines that have ended and return them.

        Those that share every stage with an earlier one, or one that has failed, end at once.
        """
        endings = []
        for number in tuple(self._ending):
            nodes = [self._nodes[name] for name in self._pipelines[number]]
            reason = next((node.reason for node in nodes if node.state == "failed"), "")
            endings.append(Ending(number, self.drop(number), reason))
        return endings

    def drop(self, number: int) -> StageResult:
        """Take a pipeline out; stages that no other pipeline needs are not handed out any more.

        Args:
            number: Of an open pipeline.

        Returns:
            What its stages have brought so far.
        """
        result = self.get_result(number)
        for name in self._pipelines.pop(number):
            del self._nodes[name].waiting[number]
        self._ending.pop(number, None)
        return result

    def waiting_for(self, node: str) -> tuple[int, ...]:
        """The open pipelines whose path leads through a stage."""
        return tuple(self._nodes[node].waiting)

    def get_result(self, number: int) -> StageResult:
        """Merge what the stages of an open pipeline have brought so far.

        Seconds of a shared stage are charged to the pipeline that asked for it first.
        """
        merged = StageResult()
        for name in self._pipelines[number]:
            result = self._nodes[name].result
            if self._paid.get(name) != number:
                result = replace(result, seconds=dict.fromkeys(result.seconds, 0.0))
            merged |= result
        return merged

    def _grow(
        self, node: str, stage: str, settings: PipelineSettings, number: int,
        parents: tuple[str, ...], share: float = 1.0,
    ) -> None:  # fmt: skip
        if node in self._nodes:
            return
        label = _describe(number, stage, settings)
        self._nodes[node] = _Node(
            task=Task(node, stage, settings, label, share),
            age=len(self._nodes),
            parents=parents,
            is_held=stage == PATH[-1] and share != self._shares[0],
        )
        self._paid[node] = number
        for parent in parents:
            self._nodes[parent].children.append(node)

    def _may_run(self, name: str) -> bool:
        node = self._nodes[name]
        return (
            node.state == "open"
            and not node.is_held
            and (bool(node.waiting) or name in BASELINES)
            and all(self._nodes[parent].state == "done" for parent in node.parents)
        )

    def _enqueue(self, name: str) -> None:
        """Queue a stage if it may run; `take` looks again, as it may have changed by then."""
        if self._may_run(name):
            depth = _depth(self._nodes[name].task)
            heappush(self._queue, (-depth, self._nodes[name].age, name))


def _depth(task: Task) -> float:
    return task.share + (PATH.index(task.stage) if task.stage in PATH else 0)


def _describe(number: int, stage: str, settings: PipelineSettings) -> str:
    """Name a stage by what it depends on, in characters that folders may have."""
    if stage == "distilled":
        return f"distilled {number}"
    label = f"{stage} lambda {settings.sparsity_lambda:g}"
    if stage == "sparse":
        return label
    rounded = f" round {settings.round_to}" if settings.round_to > 1 else ""
    return f"{label} p {settings.pruning_ratio:g} {settings.scope}{rounded}"
