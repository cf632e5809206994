"""The tree hands out every stage once, in an order that the stages allow."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.pipelines.stage_tree import StageTree, Task, _name_nodes
from trainables.chain import Chain, make_chain
from trainables.network_config import NetworkConfig
from trainables.pipeline import StageResult, build_baselines
from trainables.pipeline_config import PipelineConfig

FIRST = make_chain()
BASELINES = build_baselines(PipelineConfig())
STEPS = ("sparse", "pruned", "latency", "distilled")


def grow(*pipelines: Chain, rungs: tuple[float, ...] = ()) -> StageTree:
    tree = StageTree(BASELINES, rungs)
    for number, chain in enumerate(pipelines):
        tree.add(number, chain)
    return tree


def take(tree: StageTree) -> Task:
    task = tree.take()
    assert task is not None
    return task


def pass_baselines(tree: StageTree) -> None:
    for stage in ("teacher", "dense"):
        task = take(tree)
        assert (task.stage, task.is_root, task.baseline) == (stage, True, stage)
    ended = []
    for stage in ("teacher", "dense"):
        result = StageResult(stages={stage: "x"}, seconds={stage: 9.0}, metrics={"miou": 0.5})
        assert tree.finish(BASELINE_NODES[stage], result) == []
        task = take(tree)
        assert (task.stage, task.baseline) == ("latency", stage)
        ended += tree.finish(task.node, StageResult(metrics={"latency_ms": 3.0}))
    task = take(tree)
    assert (task.stage, task.baseline) == ("sensitivity", "dense")
    ended += tree.finish(task.node, StageResult())
    assert [ending.number for ending in ended] == ["teacher", "dense"]
    assert ended[1].result.metrics == {"miou": 0.5, "latency_ms": 3.0}


BASELINE_NODES = {name: _name_nodes(chain)[0] for name, chain in BASELINES.items()}


def test_a_stage_waits_for_those_before_it() -> None:
    tree = grow(FIRST)
    pass_baselines(tree)
    for stage in STEPS:
        task = take(tree)
        assert task.stage == stage
        assert tree.take() is None
        endings = tree.finish(task.node, StageResult(seconds={stage: 1.0}))
    (ending,) = endings
    assert (ending.number, ending.reason) == (0, "")
    assert ending.result.seconds == {
        "teacher": 0.0, "dense": 0.0, "sparse": 1.0, "pruned": 1.0, "latency": 1.0,
        "distilled": 1.0,
    }  # fmt: skip
    # What was measured of the network before it was pruned says nothing of the pruned one.
    assert ending.result.metrics == {}


def test_labels_are_names_of_folders_whatever_students_are_called() -> None:
    names = ["/home/me/" + "deep/" * 50 + "net.py:Small", "/home/me/net.py:Net", "smp:Unet"]
    students = {name: NetworkConfig(name="enet") for name in names}
    config = PipelineConfig(students=students, self_teaching=True)
    tree = StageTree(build_baselines(config))
    for number, name in enumerate(names):
        tree.add(number, make_chain(distiller="none", student=name))
    labels = []
    while task := tree.take():
        labels.append(task.label)
        tree.finish(task.node, StageResult(metrics={"miou": 0.5}))
    assert len(labels) == len(set(labels)) > 2 * len(names)
    assert not any(set(label) & set("/:") or len(label) > 150 for label in labels)
    assert "home-me-net.py-Net" in labels


def test_a_student_without_a_teacher_does_not_wait_for_it() -> None:
    tree = grow(make_chain(distiller="none"))
    assert take(tree).stage == "teacher"
    assert take(tree).stage == "dense"
    tree.finish(BASELINE_NODES["dense"], StageResult())
    endings = []
    for stage in ("latency", "sensitivity", *STEPS):
        task = take(tree)
        assert task.stage == stage
        endings += tree.finish(task.node, StageResult())
    assert [ending.number for ending in endings] == ["dense", 0]


def test_a_measurement_waits_for_a_free_device() -> None:
    tree = grow(FIRST, make_chain(pruning_ratio=0.3))
    pass_baselines(tree)
    tree.finish(take(tree).node, StageResult())
    tree.finish(take(tree).node, StageResult())
    task = tree.take(may_be_exclusive=False)
    assert task is not None
    assert task.stage == "pruned"  # of the other pipeline
    assert tree.take(may_be_exclusive=False) is None
    assert take(tree).stage == "latency"


def test_a_pipeline_goes_on_from_a_finished_network() -> None:
    tail = make_chain(("pruned", "latency", "distilled"), pruning_ratio=0.7)
    tree = grow(FIRST, (*FIRST, *tail))
    pass_baselines(tree)
    seen = []
    endings = []
    while (task := tree.take()) is not None:
        seen.append(task.stage)
        miou = {"miou": 0.1 * len(seen)} if task.stage == "distilled" else {}
        endings += tree.finish(task.node, StageResult(metrics=miou, seconds={task.stage: 1.0}))
    assert seen == [*STEPS, "pruned", "latency", "distilled"]
    assert [ending.number for ending in endings] == [0, 1]
    assert [ending.result.metrics["miou"] for ending in endings] == pytest.approx([0.4, 0.7])
    # The second pays for its own stages alone.
    assert endings[1].result.seconds["distilled"] == 1.0
    assert endings[1].result.seconds["sparse"] == 0.0


def test_equal_pipelines_end_together() -> None:
    tree = grow(FIRST, FIRST)
    pass_baselines(tree)
    for _ in range(4):
        endings = tree.finish(take(tree).node, StageResult(seconds={"x": 1.0}))
    assert [ending.result.seconds["x"] for ending in endings] == [1.0, 0.0]
    tree.add(2, FIRST)
    assert [ending.number for ending in tree.settle()] == [2]


def test_a_dropped_pipeline_costs_nothing_more() -> None:
    other = make_chain(pruning_ratio=0.3)
    tree = grow(FIRST, other)
    pass_baselines(tree)
    tree.finish(take(tree).node, StageResult())
    pruned = take(tree)
    tree.finish(pruned.node, StageResult(metrics={"macs": 3.0, "latency_ms": 9.0}))
    assert tree.waiting_for(pruned.node) == (0,)
    assert tree.drop(0).metrics == {"macs": 3.0}  # the stage of the latency is still to come
    assert take(tree).chain == other[:3]
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
    for _ in range(3):
        tree.finish(take(tree).node, StageResult())
    for begin, share in ((0.0, 0.25), (0.25, 0.5), (0.5, 1.0)):
        task = take(tree)
        assert (task.stage, task.begin, task.share) == ("distilled", begin, share)
        endings = tree.finish(task.node, StageResult(metrics={"miou": share}))
        assert tree.take() is None
        if share < 1:
            assert endings == []
            tree.promote(0)
    assert endings[0].result.metrics == {"miou": 1.0}


pipelines = st.lists(
    st.builds(
        make_chain,
        sparsity_lambda=st.sampled_from([1e-5, 1e-4]),
        pruning_ratio=st.sampled_from([0.3, 0.5]),
        lr=st.sampled_from([0.01, 0.02]),
        distiller=st.sampled_from(["dkd", "none"]),
    ),
    max_size=12,
)


@given(
    pipelines=pipelines,
    rungs=st.sampled_from([(), (0.25,), (0.25, 0.5)]),
    order=st.randoms(use_true_random=False),
    places=st.integers(1, 4),
)
def test_whatever_the_order_every_pipeline_ends_once_and_no_stage_runs_twice(
    pipelines: list[Chain], rungs: tuple[float, ...], order: Random, places: int
) -> None:
    tree = grow(rungs=rungs)
    coming = list(enumerate(pipelines))
    running: list[Task] = []
    seen: list[str] = []
    ended: list[int | str] = []
    while coming or running or tree.num_open:
        while len(running) < places and (task := tree.take()) is not None:
            running.append(task)
            seen.append(task.node)
        if coming and (not running or order.random() < 0.5):
            tree.add(*coming.pop(0))
            endings = tree.settle()
        elif running:
            task = running.pop(order.randrange(len(running)))
            fails = task.stage == "pruned" and order.random() < 0.2
            endings = tree.fail(task.node, "no") if fails else tree.finish(task.node, StageResult())
        else:  # all that are left wait for a promotion
            assert all(tree.list_rungs(number)[-1][1] for number in tree.open_pipelines)
            tree.promote(order.choice(tree.open_pipelines))
            assert tree.take_released()
            endings = []
        ended += [ending.number for ending in endings]
    numbers = [number for number in ended if isinstance(number, int)]
    assert sorted(numbers) == list(range(len(pipelines)))
    assert len(seen) == len(set(seen))
    assert tree.open_pipelines == ()


@pytest.mark.parametrize("stage", ["teacher", "dense"])
def test_a_failed_baseline_fails_who_needs_it(stage: str) -> None:
    tree = grow(FIRST, make_chain(distiller="none"))
    for _ in range(2):
        take(tree)
    failed = [ending.number for ending in tree.fail(BASELINE_NODES[stage], "diverged")]
    assert failed == (["teacher", 0] if stage == "teacher" else ["dense", 0, 1])


def test_a_given_teacher_is_the_teacher_and_no_stage_of_the_pipeline() -> None:
    tree = grow(FIRST)
    take(tree), take(tree)
    given = StageResult(stages={"given": "given-1"}, seconds={"given": 4.0}, network="given-1")
    tree.finish(BASELINE_NODES["teacher"], given)
    dense = StageResult(stages={"dense": "dense-1"}, seconds={"dense": 9.0}, network="dense-1")
    tree.finish(BASELINE_NODES["dense"], dense)
    found = tree.get_result(0)
    assert found.stages == {"teacher": "given-1", "dense": "dense-1"}
    assert found.seconds == {"teacher": 0.0, "dense": 0.0}
    assert found.network == "dense-1"
