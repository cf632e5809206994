"""Deletes the networks of a finished study that do not belong to its front."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Mapping
from pathlib import Path

from search.pipelines.front import find_front
from search.pipelines.study import PipelineStudy
from trainables.artifacts.remote_stages import STAGES_FOLDER, RemoteStages


def keep_front(
    study: PipelineStudy,
    run_dir: Path,
    remote: RemoteStages | None,
    kept_out: Mapping[int, str],
    roots: Collection[str],
) -> None:
    """Delete the stages that belong to no pipeline of the front, and all unfinished stages.

    Stages that members of the front share with other pipelines are kept. So are the uncompressed
    networks, and stages that no pipeline names: retrainings, latencies of the baselines. All
    numbers of the study are kept, and a deleted network can be computed again from its settings.

    Args:
        study: Study that is over, with its retrainings: stages that wait at a rung are deleted.
        run_dir: Folder of the run, or the driver's copy of it.
        remote: Stages in storage; None if the run is in a local folder.
        kept_out: Reasons why networks are kept out of the front, by trial number.
        roots: Stages of the uncompressed networks.

    Raises:
        StorageError: The storage does not delete a stage.
    """
    records, objectives = study.records.values(), study.config.objectives
    front = {
        record.number
        for left_out in ({}, kept_out)  # others take the place of a network that is kept out
        for record in find_front(records, objectives, left_out, with_equals=True)
    }
    for number in tuple(front):  # keep also the pipelines from whose networks they continue
        origin = study.records[number].continues
        while origin is not None:
            front.add(origin)
            origin = study.records[origin].continues
    names: dict[bool, set[str]] = {True: set(), False: set()}
    for record in study.records.values():
        names[record.number in front].update(record.stages.values())
    stages_dir = run_dir / STAGES_FOLDER
    for name in names[False] - names[True] - set(roots):
        if remote is not None:
            remote.remove(name)
        shutil.rmtree(stages_dir / name, ignore_errors=True)
    for partial in stages_dir.glob("*.partial"):
        shutil.rmtree(partial, ignore_errors=True)
    if remote is not None:
        remote.remove_partials()
