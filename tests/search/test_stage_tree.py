"""The tree hands out every stage once, in an order that the stages allow."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pipelines.stage_tree import StageTree, Task
from trainables.pipeline import StageResult
from trainables.pipeline_config import PipelineSettings

FIRST = PipelineSettings()


def grow(*pipelines: PipelineSettings, rungs: tuple[float, ...] = ()) -> StageTree:
    tree = StageTree(rungs)
    for number, chosen in enumerate(pipelines):
        tree.add(number, chosen)
    return tree


def take(tree: StageTree) -> Task:
    task = tree.take()
    assert task is not None
    return task


def pass_baselines(tree: StageTree) -> None:
    for stage in ("teacher", "dense"):
        assert take(tree).stage == stage
    for stage in ("teacher", "dense"):
        assert tree.finish(stage, StageResult(stages={stage: "x"}, seconds={stage: 9.0})) == []


def test_a_stage_waits_for_those_before_it() -> None:
    tree = grow(FIRST)
    pass_baselines(tree)
    for stage in ("sparse", "pruned", "distilled"):
        task = take(tree)
        assert task.stage == stage
        assert tree.take() is None
        endings = tree.finish(task.node, StageResult(seconds={stage: 1.0}))
    (ending,) = endings
    assert (ending.number, ending.reason) == (0, "")
    assert ending.result.seconds == {
        "teacher": 0.0, "dense": 0.0, "sparse": 1.0, "pruned": 1.0, "distilled": 1.0
    }  # fmt: skip


def test_a_student_without_a_teacher_does_not_wait_for_it() -> None:
    tree = grow(replace(FIRST, distiller="none"))
    assert take(tree).stage == "teacher"
    assert take(tree).stage == "dense"
    tree.finish("dense", StageResult())
    for stage in ("sparse", "pruned", "distilled"):
        task = take(tree)
        assert task.stage == stage
        endings = tree.finish(task.node, StageResult())
    assert [ending.number for ending in endings] == [0]


def test_equal_pipelines_end_together() -> None:
    tree = grow(FIRST, FIRST)
    pass_baselines(tree)
    for _ in range(3):
        endings = tree.finish(take(tree).node, StageResult(seconds={"x": 1.0}))
    assert [ending.result.seconds["x"] for ending in endings] == [1.0, 0.0]
    tree.add(2, FIRST)
    assert [ending.number for ending in tree.settle()] == [2]


def test_a_dropped_pipeline_costs_nothing_more() -> None:
    other = replace(FIRST, pruning_ratio=0.3)
    tree = grow(FIRST, other)
    pass_baselines(tree)
    tree.finish(take(tree).node, StageResult())
    pruned = take(tree)
    tree.finish(pruned.node, StageResult(metrics={"latency_ms": 3.0}))
    assert tree.waiting_for(pruned.node) == (0,)
    assert tree.drop(0).metrics == {"latency_ms": 3.0}
    assert take(tree).settings == other
    assert tree.take() is None


def test_a_stage_that_was_not_needed_runs_once_it_is() -> None:
    tree = grow(FIRST)
    pass_baselines(tree)
    tree.drop(0)
    assert tree.take() is None
    tree.add(1, FIRST)
    assert take(tree).stage == "sparse"
    assert tree.take() is None


def test_a_rung_holds_until_the_promotion() -> None:
    tree = grow(FIRST, rungs=(0.25, 0.5))
    pass_baselines(tree)
    for _ in range(2):
        tree.finish(take(tree).node, StageResult())
    for share in (0.25, 0.5, 1.0):
        task = take(tree)
        assert (task.stage, task.share) == ("distilled", share)
        endings = tree.finish(task.node, StageResult(metrics={"miou": share}))
        assert tree.take() is None
        if share < 1:
            assert endings == []
            tree.promote(0)
    assert endings[0].result.metrics == {"miou": 1.0}


pipelines = st.lists(
    st.builds(
        PipelineSettings,
        sparsity_lambda=st.sampled_from([1e-5, 1e-4]),
        pruning_ratio=st.sampled_from([0.3, 0.5]),
        temperature=st.sampled_from([1.0, 2.0]),
        distiller=st.sampled_from(["dkd", "none"]),
    ),
    max_size=12,
)


@given(pipelines=pipelines, order=st.randoms(use_true_random=False), places=st.integers(1, 4))
def test_whatever_the_order_every_pipeline_ends_once_and_no_stage_runs_twice(
    pipelines: list[PipelineSettings], order: object, places: int
) -> None:
    tree = grow(*pipelines)
    running: list[Task] = []
    seen: list[str] = []
    ended: list[int] = []
    while True:
        while len(running) < places and (task := tree.take()) is not None:
            running.append(task)
            seen.append(task.node)
        if not running:
            break
        task = running.pop(order.randrange(len(running)))  # type: ignore[attr-defined]
        fails = task.stage == "pruned" and order.random() < 0.2  # type: ignore[attr-defined]
        endings = tree.fail(task.node, "no") if fails else tree.finish(task.node, StageResult())
        ended += [ending.number for ending in endings]
    assert sorted(ended) == list(range(len(pipelines)))
    assert len(seen) == len(set(seen))
    assert tree.open_pipelines == ()


@pytest.mark.parametrize("stage", ["teacher", "dense"])
def test_a_failed_baseline_fails_who_needs_it(stage: str) -> None:
    tree = grow(FIRST, replace(FIRST, distiller="none"))
    for _ in range(2):
        take(tree)
    failed = [ending.number for ending in tree.fail(stage, "diverged")]
    assert failed == ([0] if stage == "teacher" else [0, 1])
