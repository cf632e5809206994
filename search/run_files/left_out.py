"""Sentences on what a time limit has left out of a study, for the screen and the report."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from search.duration import format_duration
from search.pipelines.confirmation import Confirmation
from search.pipelines.study import PipelineStudy
from trainables.pipeline import build_baselines


def describe_left_out(
    study: PipelineStudy, confirmation: Confirmation, measured: Collection[str]
) -> Iterator[str]:
    """Describe what there was no time for, one sentence each.

    Args:
        study: Study that ended at its time limit.
        confirmation: Retrainings of its front.
        measured: Names of the uncompressed networks that have been trained and measured.
    """
    limit = f"the time limit of {format_duration(study.config.limit_seconds or 0.0)}"
    names = [name for name in build_baselines(study.config.pipeline) if name not in measured]
    if names:
        yield f"{limit} left out the training or measurement of {', '.join(names)}"
    records = study.records.values()
    begun = [record.number for record in records if record.state == "running"]
    left = study.num_unfinished
    if left:
        started = f", {len(begun)} of them begun" if begun else ""
        yield f"{limit} left out {left} of {study.config.num_pipelines} pipelines{started}"
    if study.config.confirm and (left or confirmation.num_left):
        missing = "all" if left else f"{confirmation.num_left} of {confirmation.num_wanted}"
        yield f"{limit} left out {missing} retrainings of the front"
