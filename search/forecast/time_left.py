"""Predicts how long a study will still take, from its running, waiting and future stages."""

from __future__ import annotations

import math
from collections import Counter

from search.forecast.dry_run import Forecast
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.stage_tree import Task
from trainables.rehearsal import name_kind


def find_seconds_left(dispatcher: Dispatcher, forecast: Forecast, places: Places) -> float:
    """Predict the seconds until the stages of all pipelines have ended.

    Known stages count one by one. Pipelines that have not been proposed yet count with the mean
    seconds of the forecast, corrected by the measured times of their kinds of stages. The forecast
    also says when places will be idle, because stages wait for each other.

    Args:
        dispatcher: Dispatcher of the running study.
        forecast: Forecast from before the study.
        places: Places of the machines.
    """
    budget, study = dispatcher.budget, dispatcher.study
    tasks: dict[str, tuple[Task, float]] = {}  # with what is left of it
    longest = 0.0
    for needed in dispatcher.list_open():
        along = 0.0
        for task in needed:
            if task.node not in tasks:
                tasks[task.node] = task, budget.find_remaining((task,))
            along += 0.0 if places.is_filled_by(task) else tasks[task.node][1]
        longest = max(longest, along)
    alone = math.fsum(left for task, left in tasks.values() if places.is_filled_by(task))
    work = math.fsum(left for task, left in tasks.values() if not places.is_filled_by(task))

    to_come = study.num_unfinished - dispatcher.num_open + dispatcher.num_paused
    known = Counter(name_kind(task.chain) for task, _ in tasks.values() if not task.baseline)
    # A forecast within a time limit covers only the pipelines that fit into it.
    covered = forecast.num_ended or study.config.num_pipelines
    whole = 0.0
    for kind, (number, seconds) in forecast.stages.items():
        count = number * study.config.num_pipelines / covered
        missing = count - budget.num_ended[kind] - known[kind]
        expected = max(0.0, min(missing, to_come * number / covered))
        each = seconds * budget.seconds.find_factor(kind)
        work += expected * each
        whole += count * each
    done = 1 - work / whole if whole > work else 0.0
    room = max(whole, work) / (places.count * forecast.in_use)
    searching = max(room * (1 - forecast.find_time(done)), longest)
    return min(alone + searching, max(0.0, budget.left))
