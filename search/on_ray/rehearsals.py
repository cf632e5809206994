"""The stages of a study timed on a machine that will run them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from search.config import StudyConfig
from search.forecast.planning import time_stages
from search.on_ray.allotment import TrialResources
from search.pipelines.places import Places
from trainables.context import StageContext
from trainables.process.device_lock import DeviceLock
from trainables.rehearsal import StageRate

POLL_SECONDS = 0.2


def count_places(resources: TrialResources) -> Places:
    """How many stages the machines hold at a time."""
    processes, of_baseline = resources.num_processes, resources.num_processes_baseline
    if resources.num_gpus:
        root = of_baseline * resources.num_gpus_baseline / (processes * resources.num_gpus)
    else:
        root = of_baseline * resources.num_cpus_baseline / (processes * resources.num_cpus)
    single = resources.num_gpus or 1.0
    of_root = max(1, math.ceil(root))
    units_of_root = (resources.num_gpus_baseline or 1.0) * of_baseline
    if resources.uses_threads:  # it uses the cores of all places
        units_of_root = min(of_root, resources.max_concurrent)
    return Places(
        count=resources.max_concurrent,
        exclusive=resources.max_exclusive,
        of_root=of_root,
        units=single,
        units_of_training=single * processes,
        most_per_training=resources.most_places,
        uses_threads=resources.uses_threads,
        units_of_root=units_of_root,
    )


def time_on_worker(
    config: StudyConfig, resources: TrialResources, should_stop: Callable[[], bool]
) -> tuple[dict[str, StageRate], list[str]]:
    """Time every kind of stage in a process with the machine of an uncompressed network's training.

    Args:
        config: Of the study.
        resources: Of its trials.
        should_stop: Asked meanwhile.

    Returns:
        Rates by kind, and why a stage could not be timed.

    Raises:
        KeyboardInterrupt: It was to stop.
    """
    task: Any = ray.remote(
        num_cpus=resources.num_cpus_baseline,
        num_gpus=max(resources.num_gpus, resources.num_gpus_baseline),
        max_retries=0,
        max_calls=1,  # the process goes, and its memory with it
    )(_time)
    answer = task.remote(config, resources)
    while not ray.wait([answer], timeout=POLL_SECONDS)[0]:
        if should_stop():
            ray.cancel(answer, force=True)
            raise KeyboardInterrupt
    try:
        rates, problems = ray.get(answer)
    except RayError as error:
        reason = " ".join(str(error).split()[-30:])
        return {}, [f"no stage could be timed beforehand: {reason}"]
    return {kind: StageRate(*rate) for kind, rate in rates.items()}, problems


def _time(
    config: StudyConfig, resources: TrialResources
) -> tuple[dict[str, tuple[float, ...]], list[str]]:
    context = StageContext(
        cache_dir=config.cache_dir,
        device=resources.device,
        num_threads=resources.num_cpus,
        num_workers=max(0, resources.num_cpus - 1) if resources.num_gpus else 0,
        device_lock=DeviceLock(resources.device),
    )
    rates, problems = time_stages(config, context, num_threads_root=resources.num_cpus_baseline)
    return {kind: tuple(rate) for kind, rate in rates.items()}, problems
