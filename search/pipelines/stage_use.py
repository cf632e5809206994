"""Counts the work of a study's stages, and the work saved because pipelines share stages."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from trainables.artifacts.artifact_files import RESULT_FILE, SHARE_FILES
from trainables.stages import STAGES
from trainables.stages.given import GivenStage

# For one pipeline: stage name -> folder in the store, and stage name -> seconds.
PipelineStages = tuple[Mapping[str, str], Mapping[str, float]]

ROOTS = {GivenStage.name, *(name for name, stage in STAGES.items() if not stage.follows)}
"""Stages that make the uncompressed networks of a study."""


class StageFacts(NamedTuple):
    """Facts about a finished stage, read from the store.

    Attributes:
        seconds: Seconds of work over all attempts.
        teacher_cache: "hit" if its training found the teacher's logits on its node, "built" if it
            computed them, "" if it used none.
    """

    seconds: float
    teacher_cache: Literal["", "hit", "built"] = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageUse:
    """The stages of a study, counted by their names.

    Attributes:
        computed: Number of computed stages.
        reused: Number of times that a pipeline reused a stage. Teacher and dense student never
            count, because every study makes them once.
        spent: Seconds of work, including distillations that paused at a rung.
        saved: Seconds of the reused stages, counted for every reuse.
        teacher_cache: Number of distillations by `StageFacts.teacher_cache`.
    """

    computed: Counter[str] = field(default_factory=Counter)
    reused: Counter[str] = field(default_factory=Counter)
    spent: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    saved: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    teacher_cache: Counter[str] = field(default_factory=Counter)


def count_use(
    pipelines: Iterable[PipelineStages],
    baselines: Mapping[str, str],
    read_facts: Callable[[str], StageFacts],
) -> StageUse:
    """Count the stages of all pipelines.

    The seconds are read from the store, because a pipeline's own seconds are 0 for a stage that it
    found there, for example one from an earlier session.

    Args:
        pipelines: Stages of all pipelines, finished and unfinished.
        baselines: Folder in the store of each uncompressed network, by its role.
        read_facts: Function that returns the facts about a folder in the store.
    """
    use = StageUse()
    known: set[str] = set()
    for role, folder in baselines.items():
        use.computed[role] += 1
        use.spent[role] += read_facts(folder).seconds
    for stages, seconds in pipelines:
        for stage, folder in stages.items():
            if stage in ROOTS:
                continue  # every study makes its uncompressed networks once
            facts = read_facts(folder)
            if folder in known:
                use.reused[stage] += 1
                use.saved[stage] += facts.seconds
                continue
            known.add(folder)
            use.computed[stage] += 1
            use.spent[stage] += facts.seconds
            if facts.teacher_cache:
                use.teacher_cache[facts.teacher_cache] += 1
        for stage in seconds.keys() - stages.keys():  # stages that have paused at a rung
            use.spent[stage] += seconds[stage]
    return use


def read_stage_facts(folder: Path) -> StageFacts:
    """Read the facts about a finished stage, including the rungs at which it paused.

    Args:
        folder: Folder of the stage in the store.

    Raises:
        OSError: There is no such stage.
        ValueError: The stage's result is damaged.
    """
    result = json.loads((folder / RESULT_FILE).read_text())["result"]
    seconds = float(result["seconds"])
    if "teacher_cache_seconds" not in result:
        return StageFacts(seconds)
    results = [result, *(json.loads(path.read_text()) for path in folder.glob(SHARE_FILES))]
    was_built = any(entry["teacher_cache_seconds"] for entry in results)
    return StageFacts(seconds, "built" if was_built else "hit")
