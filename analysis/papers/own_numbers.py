"""Reads from runs what the papers' tables need: networks, and trials by ratio and distiller."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from analysis.class_iou import read_baseline_iou
from analysis.papers.published_tables import LABELS
from analysis.results import Baseline, Run, Trial
from analysis.run_description import describe_data, describe_latency

NO_TEACHER = "none"


class OwnNetwork(NamedTuple):
    """An uncompressed network of a run.

    Attributes:
        run: The run.
        baseline: Numbers of the network.
        label: Name as the papers print it.
    """

    run: Run
    baseline: Baseline
    label: str

    @property
    def iou(self) -> Mapping[str, float]:
        """IoU on the validation split, in 0..1, by class."""
        return read_baseline_iou(self.run, self.baseline)


def list_networks(runs: Sequence[Run]) -> list[OwnNetwork]:
    """Return each uncompressed network once, in the order of the runs, with teachers last."""
    found: dict[tuple[str, str], OwnNetwork] = {}
    for run in runs:
        for baseline in run.baselines:
            label = LABELS.get(baseline.model, baseline.model or baseline.name)
            if baseline.role == "teacher":
                label += " (teacher)"
            found.setdefault((label, describe_data(run)), OwnNetwork(run, baseline, label))
    return sorted(found.values(), key=lambda network: network.baseline.role == "teacher")


def get_setting(trial: Trial, name: str) -> Any:
    """Return a setting by the last part of its name; None if the trial does not have it."""
    return next(
        (value for key, value in trial.settings.items() if key.rsplit(".", 1)[-1] == name), None
    )


def find_best(runs: Sequence[Run], ratio: float, *, taught: bool) -> tuple[Run, Trial, int] | None:
    """Return the trial of highest mIoU at a pruning ratio, with or without a teacher.

    Trials that continue another trial's network are left out, because the papers prune once.

    Returns:
        The run, the trial, and the number of trials that it is the best of; None if there is none.
    """
    found = [
        (run, trial)
        for run in runs
        for trial in run.trials
        if trial.state == "complete"
        and trial.continues is None
        and "miou" in trial.measures
        and abs(float(get_setting(trial, "pruning_ratio") or -1.0) - ratio) < 1e-6
        and (get_setting(trial, "distiller") not in (None, NO_TEACHER)) == taught
    ]
    if not found:
        return None
    run, trial = max(found, key=lambda entry: entry[1].measures["miou"])
    return run, trial, len(found)


def read_stage(run: Run, folder: str) -> Mapping[str, Any]:
    """Return the result of a stage; empty if its folder is not here."""
    path = run.folder / "stages" / folder / "result.json"
    if not folder or not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    result: Mapping[str, Any] = content.get("result", content)
    return result


def describe_conditions(runs: Sequence[Run]) -> str:
    """Return one sentence with the data, machine and training steps of each run."""
    texts = []
    for run in runs:
        hardware = run.metadata.get("hardware") or {}
        machine = str(hardware.get("gpu") or hardware.get("cpu") or "an unknown machine")
        steps = _count_steps(run)
        parts = [describe_data(run) + " val", f"latency on {machine} ({describe_latency(run)})"]
        parts += [f"{steps} training steps per uncompressed network"] if steps else []
        texts.append(f"{run.name}: " + ", ".join(parts))
    return "Ours: " + "; ".join(texts)


def _count_steps(run: Run) -> str:
    counts = {
        int(steps)
        for baseline in run.baselines
        if baseline.role == "student"
        and (steps := read_stage(run, baseline.stage).get("steps")) is not None
    }
    return " to ".join(str(count) for count in sorted(counts))
