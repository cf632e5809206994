"""Collects the warnings of a run and the trials that failed or were stopped."""

from __future__ import annotations

from typing import NamedTuple

from analysis.results import Results, Trial

MOST_LISTED = 12
STATES = ("failed", "kept out", "stopped")


class EndedEarly(NamedTuple):
    """Trials that ended early for the same reason.

    Attributes:
        state: "failed", "kept out" (measured, but not usable) or "stopped".
        reason: Reason as the run states it.
        trials: Labels of the trials.
        last_stage: Last stage that any of them finished; "" for none.
    """

    state: str
    reason: str
    trials: list[str]
    last_stage: str


class ProblemsInfo(NamedTuple):
    """Everything that a reader should know before trusting a run.

    Attributes:
        warnings: What the time limit left out, then warnings about the data, layers that could not
            be pruned, pictures and the like.
        ended_early: Trials that ended early: failed, then kept out, then stopped; within each
            state the most frequent reason first.
    """

    warnings: list[str]
    ended_early: list[EndedEarly]

    @property
    def num_failed(self) -> int:
        """Number of failed trials."""
        return sum(len(entry.trials) for entry in self.ended_early if entry.state == "failed")


def get_problems_info(results: Results) -> ProblemsInfo:
    """Collect warnings, and the reasons of trials that ended early."""
    several = len(results.runs) > 1
    warnings = []
    for run in results.runs:
        notes = run.pictures.notes if run.pictures else ()
        prefix = f"{run.name}: " if several else ""
        left_out = (run.metadata.get("time") or {}).get("left_out", ())
        texts = (*left_out, *run.warnings, *notes)  # a note of the pictures is also a warning
        warnings += [prefix + text for text in dict.fromkeys(texts)]
    groups: dict[tuple[str, str], list[Trial]] = {}
    for trial in results.trials:
        kept_out = results.get_run(trial).kept_out
        if trial.number in kept_out:  # trials.csv calls it failed
            groups.setdefault(("kept out", kept_out[trial.number]), []).append(trial)
        elif trial.state in ("failed", "stopped"):
            groups.setdefault((trial.state, trial.reason), []).append(trial)
    ended = [
        EndedEarly(state, reason, [results.label(t) for t in trials], _last_stage(trials))
        for (state, reason), trials in groups.items()
    ]
    ended.sort(key=lambda entry: (STATES.index(entry.state), -len(entry.trials)))
    return ProblemsInfo(warnings, ended)


def list_labels(labels: list[str]) -> str:
    """Return the first labels as text, and the number of further ones."""
    more = len(labels) - MOST_LISTED
    return ", ".join(labels[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def _last_stage(trials: list[Trial]) -> str:
    furthest = max(trials, key=lambda trial: len(trial.stages))
    return list(furthest.stages)[-1] if furthest.stages else ""
