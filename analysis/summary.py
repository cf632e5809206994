"""Summarises a run: the front, its hypervolume, and the result in one sentence."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.pareto import non_dominated_mask, relative_hypervolume
from analysis.results import Objective, Results, Trial

ALLOWED_LOSS = 0.02


@dataclass(frozen=True, kw_only=True, slots=True)
class Summary:
    """The outcome of one or several runs.

    Attributes:
        front: Complete trials that no other one dominates, sorted by the first objective, best
            first.
        dominated: The other complete trials.
        num_by_state: Number of trials by state.
        reference_point: (M,) worst values that count for the hypervolume.
        ideal_point: (M,) best values possible; the opposite corner of the box.
        hypervolume: Share of the box between the two points that the front dominates, 0 to 1.
        notes: Notes that a reader must know before trusting the figures.
        sentence: The result in one sentence.
    """

    front: tuple[Trial, ...]
    dominated: tuple[Trial, ...]
    num_by_state: dict[str, int]
    reference_point: tuple[float, ...]
    ideal_point: tuple[float, ...]
    hypervolume: float
    notes: tuple[str, ...]
    sentence: str


def summarize(results: Results) -> Summary:
    """Compute the front and its hypervolume, and describe them."""
    trials = results.measured
    values = measure_matrix(trials, results.objectives)
    mask = non_dominated_mask(values, results.directions)
    front = [trial for trial, on_front in zip(trials, mask, strict=True) if on_front]
    first = results.objectives[0]
    front.sort(key=lambda trial: trial.measures[first.name], reverse=first.maximize)
    notes = list(results.notes)
    reference = _reference_point(results, values, notes)
    ideal = _ideal_point(results, values, reference)
    return Summary(
        front=tuple(front),
        dominated=tuple(t for t, on_front in zip(trials, mask, strict=True) if not on_front),
        num_by_state=dict(Counter(trial.state for trial in results.trials)),
        reference_point=reference,
        ideal_point=ideal,
        hypervolume=relative_hypervolume(values, reference, results.directions, ideal_point=ideal),
        notes=tuple(notes),
        sentence=_describe(results, front),
    )


def measure_matrix(
    trials: tuple[Trial, ...] | list[Trial], objectives: tuple[Objective, ...]
) -> NDArray[np.float64]:
    """Return the objectives of the trials as an (N, M) array, in the units of the file."""
    rows = [[trial.measures[objective.name] for objective in objectives] for trial in trials]
    return np.asarray(rows, dtype=np.float64).reshape(len(trials), len(objectives))


def _reference_point(
    results: Results, values: NDArray[np.float64], notes: list[str]
) -> tuple[float, ...]:
    point = []
    for column, objective in enumerate(results.objectives):
        if objective.reference is not None:
            point.append(objective.reference)
            continue
        away = -1.0 if objective.maximize else 1.0
        seen = values[:, column] if len(values) else np.zeros(1)
        worst = float(seen.min() if objective.maximize else seen.max())
        point.append(worst + away * (abs(worst) or 1.0) * 0.1)
        notes.append(
            f"metadata.json has no reference for {objective.name}, so the hypervolume uses the "
            "worst measured value plus 10 % and is not comparable with that of other runs."
        )
    return tuple(point)


def _ideal_point(
    results: Results, values: NDArray[np.float64], reference: tuple[float, ...]
) -> tuple[float, ...]:
    point = []
    for column, objective in enumerate(results.objectives):
        bound = 1.0 if objective.maximize else 0.0  # the bound of the search's own hypervolume
        known = [bound, reference[column], *values[:, column].tolist()]
        point.append(max(known) if objective.maximize else min(known))
    return tuple(point)


def _describe(results: Results, front: list[Trial]) -> str:
    if not results.measured:
        return "No network has been measured to the end yet."
    total = len(results.measured)
    if total == 1:
        begin = "The one finished network is the front."
    else:
        begin = f"{len(front)} of {total} finished networks are on the front."
    gain = _describe_gain(results, front)
    return f"{begin} {gain}" if gain else begin


def _describe_gain(results: Results, front: list[Trial]) -> str:
    cost_names = [n for n in ("latency_ms", "num_params") if results.find_objective(n)]
    if not cost_names or results.find_objective("miou") is None:
        return ""
    pairs = [
        (trial, student.values)
        for trial in front
        if (student := results.find_student(trial)) is not None
        and {"miou", cost_names[0]} <= student.values.keys()
    ]
    if not pairs:
        return ""
    near = [pair for pair in pairs if pair[0].measures["miou"] >= pair[1]["miou"] - ALLOWED_LOSS]
    if near:
        best, dense = min(near, key=lambda pair: pair[0].measures[cost_names[0]])
    else:
        best, dense = max(pairs, key=lambda pair: pair[0].measures["miou"])
    factors = " and ".join(
        _describe_factor(name, dense[name], best.measures[name])
        for name in cost_names
        if dense.get(name, 0.0) > 0 and best.measures[name] > 0
    )
    if not factors:
        return ""
    change = (best.measures["miou"] - dense["miou"]) * 100
    points = f"{abs(change):.1f} points of mIoU {'above' if change >= 0 else 'below'} dense"
    name = f"trial {results.label(best)}"
    if near:
        return f"Within {ALLOWED_LOSS * 100:.0f} points of mIoU of its dense network, " + (
            f"{name} is {factors} ({points})."
        )
    return f"None stays within {ALLOWED_LOSS * 100:.0f} points of mIoU of its dense network; " + (
        f"the best, {name}, is {factors} ({points})."
    )


def _describe_factor(name: str, before: float, after: float) -> str:
    better, worse = ("faster", "slower") if name == "latency_ms" else ("smaller", "larger")
    ratio = before / after
    return f"{ratio:.1f}× {better}" if ratio >= 1 else f"{1 / ratio:.1f}× {worse}"
