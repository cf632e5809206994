"""The pipelines of a study as paths in a tree of stages: what may run now, and what has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

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
    """

    node: str
    stage: str
    settings: PipelineSettings | None
    label: str
    share: float = 1.0


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
    task: Task
    parents: tuple[str, ...]
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

    Source: the stage trees of Shin et al., "Hippo", https://arxiv.org/abs/2006.11972, section 3.

    Args:
        rungs: Shares of the last stage's steps after which it pauses, ascending, within 0..1.
    """

    def __init__(self, rungs: Sequence[float] = ()) -> None:
        self._shares = (*rungs, 1.0)
        self._nodes: dict[str, _Node] = {}
        self._pipelines: dict[int, tuple[str, ...]] = {}
        self._paid: dict[str, int] = {}
        for stage in BASELINES:
            self._nodes[stage] = _Node(task=Task(stage, stage, None, stage), parents=())

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
        teacher = ("teacher",) if settings.distiller != "none" else ()
        for share in self._shares:
            node = f"{PATH[-1]} {get_prefix(settings, PATH[-1])} {share}"
            self._grow(node, PATH[-1], settings, number, (path[-1], *teacher), share)
            path.append(node)
        self._pipelines[number] = (*teacher, *path)

    def promote(self, number: int) -> None:
        """Let a pipeline that paused at a rung go on.

        Args:
            number: Of an open pipeline.
        """
        held = [n for n in self._pipelines[number] if self._nodes[n].is_held]
        if held:
            self._nodes[held[0]].is_held = False

    def take(self) -> Task | None:
        """Hand out the deepest stage that may run now, the oldest of equals; None if there is none.

        The pipelines that wait for a stage are those that count: a stage that none needs any more
        is not handed out.
        """
        needed = set(BASELINES).union(*self._pipelines.values())
        ready = [
            node
            for name, node in self._nodes.items()
            if name in needed
            and node.state == "open"
            and not node.is_held
            and all(self._nodes[parent].state == "done" for parent in node.parents)
        ]
        if not ready:
            return None
        chosen = max(ready, key=lambda node: _depth(node.task))
        chosen.state = "running"
        return chosen.task

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
        return self.settle()

    def settle(self) -> list[Ending]:
        """Take out the pipelines that have ended and return them.

        Those that share every stage with an earlier one, or one that has failed, end at once.
        """
        endings = []
        for number, path in list(self._pipelines.items()):
            failed = next((n for n in path if self._nodes[n].state == "failed"), None)
            if failed is None and self._nodes[path[-1]].state != "done":
                continue
            reason = "" if failed is None else self._nodes[failed].reason
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
        del self._pipelines[number]
        return result

    def waiting_for(self, node: str) -> tuple[int, ...]:
        """The open pipelines whose path leads through a stage."""
        return tuple(number for number, path in self._pipelines.items() if node in path)

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
            parents=parents,
            is_held=stage == PATH[-1] and share != self._shares[0],
        )
        self._paid[node] = number


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
