"""Tune's searcher over the study: baselines first, then pipelines; every outcome is told."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher
from ray.tune.utils import flatten_dict

from search.study import PipelineStudy
from trainables.pipeline import Baseline

logger = logging.getLogger(__name__)

ROLES_FIRST = ("teacher", "dense")  # every pipeline needs both


class PipelineSearcher(Searcher):  # type: ignore[misc,unused-ignore]
    """Hands the study's pipelines to Tune.

    Its state is the study on disk, so there is nothing for Tune to save.

    Args:
        study: Is asked and told.
        max_concurrent: Most pipelines at a time.
        explain_error: Tune trial id -> why its worker failed.
        on_change: Called after every start and outcome.

    Attributes:
        baselines: Those that are trained, by role.
        baseline_errors: Why a baseline failed, by role; the search ends then.
    """

    def __init__(
        self,
        study: PipelineStudy,
        *,
        max_concurrent: int,
        explain_error: Callable[[str], str],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self.study = study
        self.baselines: dict[str, Baseline] = {}
        self.baseline_errors: dict[str, str] = {}
        self._max_concurrent = max_concurrent
        self._explain_error = explain_error
        self._on_change = on_change
        self._roles_left = list(ROLES_FIRST)
        self._roles: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        """Return what to run next, None to wait, FINISHED when all is handed out."""
        if self._roles_left:
            role = self._roles_left.pop(0)
            self._roles[trial_id] = role
            return {"role": role, "label": role}
        if self.baseline_errors:
            return self.FINISHED  # type: ignore[no-any-return,unused-ignore]
        if len(self.baselines) < len(ROLES_FIRST) or len(self._numbers) >= self._max_concurrent:
            return None
        proposal = self.study.ask()
        if proposal is None:
            return self.FINISHED  # type: ignore[no-any-return,unused-ignore]
        self._numbers[trial_id] = proposal.number
        self._on_change()
        return {
            "role": "pipeline",
            "label": f"pipeline {proposal.number}",
            "settings": asdict(proposal.settings),
        }

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Tell the study what came of a trial."""
        flat: dict[str, Any] = flatten_dict(result or {})
        outcome = None if error else flat.get("outcome")
        reason = str(flat.get("reason", "")) if outcome else self._explain_error(trial_id)
        if trial_id in self._roles:
            role = self._roles.pop(trial_id)
            if outcome == "complete":
                self.baselines[role] = Baseline(**_section(flat, "baseline"))
            else:
                self.baseline_errors[role] = reason
        elif trial_id in self._numbers:
            number = self._numbers.pop(trial_id)
            if outcome == "complete":
                self.study.tell(
                    number,
                    "complete",
                    metrics=_section(flat, "metrics"),
                    stages=_section(flat, "stages"),
                    seconds=_section(flat, "seconds"),
                )
            else:
                self.study.tell(number, "failed", reason=reason)
        self._on_change()

    def save(self, checkpoint_path: str) -> None:
        """Write nothing: the study's journal holds everything."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Read nothing: the study's journal holds everything."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def _section(flat: Mapping[str, Any], name: str) -> dict[str, Any]:
    prefix = f"{name}/"
    return {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
