"""What the stages of a study took, and what it took less because pipelines share them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from trainables.artifacts.artifact_files import RESULT_FILE, SHARE_FILES
from trainables.stages import STAGES

# Stage name -> folder in the store, and stage name -> seconds, of one pipeline.
PipelineStages = tuple[Mapping[str, str], Mapping[str, float]]


class StageFacts(NamedTuple):
    """What the store says of a finished stage.

    Attributes:
        seconds: Of work, over all attempts.
        teacher_cache: Whether its training found the teacher's logits on its node (hit) or computed
            them (built); "" if it read none.
    """

    seconds: float
    teacher_cache: Literal["", "hit", "built"] = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageUse:
    """The stages of a study, counted by their names.

    Attributes:
        computed: Stages that there are.
        reused: Times that a pipeline had a stage without computing it. Every study trains teacher
            and dense student once, so that these never count.
        spent: Seconds of work, with those of distillations that paused at a rung.
        saved: Seconds of the stages that were reused, each time.
        teacher_cache: Distillations by `StageFacts.teacher_cache`.
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

    The seconds come from the store: a pipeline's own are 0 wherever a stage was found, be it that
    an earlier session computed it.

    Args:
        pipelines: Those that have ended and those that are on their way.
        baselines: Role -> folder in the store, of those that are trained.
        read_facts: Says what is known of a folder.
    """
    use = StageUse()
    known: set[str] = set()
    for role, folder in baselines.items():
        use.computed[role] += 1
        use.spent[role] += read_facts(folder).seconds
    for stages, seconds in pipelines:
        for stage, folder in stages.items():
            if stage in STAGES and not STAGES[stage].follows:
                continue  # a root: every study trains its uncompressed networks once
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
        for stage in seconds.keys() - stages.keys():  # paused at a rung
            use.spent[stage] += seconds[stage]
    return use


def read_stage_facts(folder: Path) -> StageFacts:
    """Read what a finished stage says of its making, also at the rungs where it paused.

    Args:
        folder: Of the stage, in the store.

    Raises:
        OSError: There is no such stage.
        ValueError: Its result is damaged.
    """
    result = json.loads((folder / RESULT_FILE).read_text())["result"]
    seconds = float(result["seconds"])
    if "teacher_cache_seconds" not in result:
        return StageFacts(seconds)
    results = [result, *(json.loads(path.read_text()) for path in folder.glob(SHARE_FILES))]
    was_built = any(entry["teacher_cache_seconds"] for entry in results)
    return StageFacts(seconds, "built" if was_built else "hit")
