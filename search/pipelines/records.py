"""What is known of a pipeline of a study: as it is proposed, stopped, finished, or learnt from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from trainables.chain import Chain, flatten_chain

Outcome = Literal["complete", "failed", "stopped"]
StoppedBy = Literal["", "limit", "bound", "rung"]
"""What stopped a pipeline early: a limit set by the user, the bound on its accuracy, or a rung."""


class Obstacle(NamedTuple):
    """A reason not to distil a pruned network.

    Attributes:
        reason: Reason in one line.
        stopped_by: Kind of the reason.
    """

    reason: str
    stopped_by: StoppedBy


class Proposal(NamedTuple):
    """A pipeline to run.

    Attributes:
        number: Trial number in the study.
        chain: Steps of the pipeline.
    """

    number: int
    chain: Chain

    @property
    def settings(self) -> dict[str, Any]:
        """Settings of the pipeline, "stage.setting" -> value."""
        return flatten_chain(self.chain)


class KnownPipeline(NamedTuple):
    """A finished pipeline of an earlier run.

    Attributes:
        run_dir: Folder of that run.
        number: Trial number in that run.
        settings: Settings of the pipeline, "stage.setting" -> value.
        metrics: Metrics of the pipeline, including the objectives.
    """

    run_dir: str
    number: int
    settings: Mapping[str, Any]
    metrics: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class TrialRecord:
    """The record of one trial.

    Attributes:
        number: Trial number in the study.
        state: State of the trial: complete, failed, stopped or running.
        settings: Settings of its pipeline, "stage.setting" -> value.
        reason: Reason why it failed or was stopped; "" if it is complete.
        stopped_by: What stopped it early; "" otherwise.
        metrics: Measured metrics by name.
        stages: Folder in the store by stage name.
        seconds: Seconds charged to this trial by stage name.
        network: Folder of its finished network in the store.
        continues: Number of the trial from whose network it continues; None if it begins at the
            root.
        started_at: Time of the start, ISO 8601 in UTC.
        finished_at: Time of the end, ISO 8601 in UTC; "" while running.
        elapsed_hours: Working time of the study until the trial ended; None while running.
    """

    number: int
    state: Outcome | Literal["running"]
    settings: Mapping[str, Any]
    reason: str = ""
    stopped_by: StoppedBy = ""
    metrics: Mapping[str, float] = field(default_factory=dict)
    stages: Mapping[str, str] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    network: str = ""
    continues: int | None = None
    started_at: str = ""
    finished_at: str = ""
    elapsed_hours: float | None = None

    @property
    def artefacts(self) -> list[str]:
        """Folders in the store that its answer needs: its network, and what its last stage made."""
        return list(dict.fromkeys([self.network, *list(self.stages.values())[-1:]]))
