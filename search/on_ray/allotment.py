"""Resources of each trial: cores, GPUs, and the number of processes that share a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from search.config import StudyConfig, list_schedules
from search.pipelines.continuation import find_longest_chain
from search.pipelines.stage_seconds import SPEED_EXPONENT
from trainables.pipeline import build_baselines, build_stages
from trainables.pipeline_config import PipelineConfig
from trainables.ray_pipeline import is_root, read_chain
from trainables.stages import STAGES


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialResources:
    """Resources of each trial.

    Several processes share a training; every other stage has one process.

    Attributes:
        device: Torch device of all trials.
        num_cpus: Number of cores of each process of a pipeline's stage.
        num_gpus: Number of GPUs of each process of a pipeline's stage.
        num_cpus_baseline: Number of cores of each process that trains the teacher or the dense
            student.
        max_concurrent: Largest number of stages at a time.
        num_gpus_baseline: Number of GPUs of each process that trains the teacher or the dense
            student.
        max_exclusive: Largest number of stages at a time that need a whole device; there is one on
            each device.
        num_processes: Number of processes that share a training of a pipeline.
        num_processes_baseline: Number of processes that share the training of the teacher or of
            the dense student.
        most_places: Largest number of places that a pipeline's training takes while others are
            free; a place is what one stage needs.
        uses_threads: Whether all runs on a single machine without GPUs. A training then runs in one
            process, with the threads of all places that it holds, and the training of the teacher
            or of a dense student runs alone, with all cores. Every stage asks Ray for the same
            resources, because for others it would start new processes, which takes seconds.
    """

    device: str
    num_cpus: int
    num_gpus: float
    num_cpus_baseline: int
    max_concurrent: int
    num_gpus_baseline: float = 0
    max_exclusive: int = 1
    num_processes: int = 1
    num_processes_baseline: int = 1
    most_places: int = 1
    uses_threads: bool = False

    def list_bundles(
        self, trial: Mapping[str, Any], config: PipelineConfig
    ) -> list[dict[str, float]]:
        """List the resources of a trial, a bundle for each of its processes.

        Args:
            trial: Config of the trial, from `describe_task`.
            config: Settings that all pipelines share.
        """
        chain = read_chain(trial)
        cpus, gpus = self.num_cpus, self.num_gpus
        count = self.num_processes * (1 if self.uses_threads else trial["places"])
        trains = STAGES[chain[-1].stage].trains
        if is_root(trial) and self.uses_threads:
            return [{"CPU": cpus, "GPU": gpus}]
        if is_root(trial):
            cpus, gpus = self.num_cpus_baseline, self.num_gpus_baseline
            count = self.num_processes_baseline
            trains = build_stages(config, chain)[-1].trains  # not if its weights are given
        is_shared = trains and not trial["is_ahead"]
        return [{"CPU": cpus, "GPU": gpus}] * (count if is_shared else 1)


def allot(
    config: StudyConfig,
    num_cpus: int,
    num_gpus: float,
    node_cpus: int,
    num_nodes: int = 1,
    node_gpus: float | None = None,
    *,
    can_grow: bool = False,
) -> TrialResources:
    """Divide the machines among the trials.

    Args:
        config: Configuration of the study; resources that it does not set are derived.
        num_cpus: Number of cores of all machines.
        num_gpus: Number of GPUs of all machines.
        node_cpus: Number of cores of the largest node; a process runs on one node.
        num_nodes: Number of nodes that have cores.
        node_gpus: Number of GPUs of the node that has most; default: all GPUs are in one node.
        can_grow: Whether an autoscaler starts machines for waiting stages. If so, --max-concurrent
            is not limited by the machines that there are now.

    Raises:
        ValueError: One trial needs more than the machines have.
    """
    if node_cpus == 0:
        raise ValueError(
            "the cluster has no machine for trials; start its workers, or state what a stage needs "
            "(--gpus-per-trial, --cpus-per-trial) so that the autoscaler starts one"
        )
    gpus = min(1.0, num_gpus) if config.gpus_per_trial is None else config.gpus_per_trial
    if gpus and max(config.processes_per_trial, config.processes_per_baseline) > 1:
        raise ValueError(
            "processes_per_trial and processes_per_baseline are for machines without GPUs; here "
            "gpus_per_trial and gpus_per_baseline say how many processes share a training"
        )
    processes = _count_processes(gpus, config.processes_per_trial)
    trials = max(1, int(num_gpus / gpus)) if gpus else _share_cores(config, num_cpus, node_cpus)
    cpus = config.cpus_per_trial or min(node_cpus * processes, max(processes, num_cpus // trials))
    for name, asked, there in (
        ("cpus_per_trial", cpus, min(node_cpus * processes, num_cpus)),
        ("gpus_per_trial", gpus, num_gpus),
        ("processes_per_trial", config.processes_per_trial, num_cpus),
        ("processes_per_baseline", config.processes_per_baseline, num_cpus),
        ("gpus_per_baseline", config.gpus_per_baseline or 0, num_gpus if gpus else 0),
    ):
        if asked > there:
            raise ValueError(f"{name} must be at most {there:g} here, got {asked:g}")
    num_cpus_each = max(1, cpus // processes)
    taken = num_cpus_each * processes
    fitting = max(1, min(num_cpus // taken, int(num_gpus / gpus) if gpus else num_cpus))
    wanted = config.max_concurrent or fitting
    will_grow = can_grow and wanted > fitting
    gpus_baseline = _choose_baseline_gpus(config, gpus, num_gpus, node_gpus)
    processes_baseline = _count_processes(gpus_baseline, config.processes_per_baseline)
    is_private = num_nodes == 1 and not (gpus or can_grow)
    uses_threads = is_private and processes == processes_baseline == 1
    if will_grow:  # a machine that an autoscaler would start is not free: it costs money
        most_places = 1
    elif uses_threads:
        most_places = 1 if config.cpus_per_trial else max(1, _count_images(config) // num_cpus_each)
    else:
        node = num_gpus if node_gpus is None else node_gpus
        most_places = _count_most_places(config, gpus, node)
    cpus_baseline = min(node_cpus, num_cpus // processes_baseline)
    return TrialResources(
        device="cuda" if gpus else "cpu",
        num_cpus=num_cpus_each,
        num_gpus=gpus / processes,
        num_cpus_baseline=num_cpus_each if gpus else cpus_baseline,
        num_gpus_baseline=gpus_baseline / processes_baseline,
        max_concurrent=wanted if can_grow else min(fitting, wanted),
        max_exclusive=wanted if can_grow else max(1, int(num_gpus) if gpus else num_nodes),
        num_processes=processes,
        num_processes_baseline=processes_baseline,
        most_places=most_places,
        uses_threads=uses_threads,
    )


def _share_cores(config: StudyConfig, num_cpus: int, node_cpus: int) -> int:
    """Choose how many pipelines share the cores: as many as make the study shortest.

    The pipelines of a chain run one after another. If a chain has most of the study's pipelines, a
    few trainings with many threads take less time than many trainings with few threads.
    """
    links, images = find_longest_chain(config), _count_images(config)

    def expect_duration(count: int) -> float:
        threads = min(num_cpus // count, node_cpus, images)
        return max(links, math.ceil(config.num_pipelines / count)) / math.pow(
            threads, SPEED_EXPONENT
        )

    most = min(num_cpus, config.num_pipelines, config.max_concurrent or num_cpus)
    return min(range(most, 0, -1), key=expect_duration)


def _count_images(config: StudyConfig) -> int:
    """Count the images of the smallest batch of a pipeline's trainings.

    More threads than that are not expected to help.
    """
    schedules = list_schedules(config.pipeline.chain[1:])
    return min((getattr(config.pipeline, name).batch_size for name in schedules), default=1)


def _count_processes(gpus: float, processes: int) -> int:
    """Return one process per GPU, or the wanted number on a machine without GPUs."""
    return max(1, int(gpus)) if gpus else processes


def _count_most_places(config: StudyConfig, gpus: float, node_gpus: float) -> int:
    """Count the places of the largest training of a pipeline: all GPUs of a node.

    On machines without GPUs it has as many processes as the training of a root.
    """
    if not gpus:
        return max(1, config.processes_per_baseline // config.processes_per_trial)
    return max(1, int(node_gpus // gpus)) if gpus >= 1 else 1


def _choose_baseline_gpus(
    config: StudyConfig, gpus: float, num_gpus: float, node_gpus: float | None
) -> float:
    """Choose the GPUs of a root: all of a node, divided among the roots that train at a time.

    There are at most as many as a batch has images, and at least those of a pipeline's stage.
    """
    if not gpus or config.gpus_per_baseline is not None:
        return config.gpus_per_baseline or 0.0
    roots = [
        build_stages(config.pipeline, c[:1])[0] for c in build_baselines(config.pipeline).values()
    ]
    num_trained = max(1, sum(root.trains for root in roots))
    images = min(config.pipeline.teacher_training.batch_size, config.pipeline.dense.batch_size)
    there = num_gpus if node_gpus is None else node_gpus
    return max(gpus, min(there, num_gpus // num_trained, images) // 1)
