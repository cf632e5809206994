"""Choose the most accurate network that is fast and small enough for a budget."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.quantities import get_quantity
from analysis.results import Results, Trial

BUDGETS = {"latency_ms": "Latency", "num_params": "Parameters"}
"""Measures that a budget can limit, with their labels."""


def find_candidates(results: Results) -> tuple[Trial, ...]:
    """Return the measured trials that have every measure that a budget can limit."""
    names = [name for name in BUDGETS if any(name in t.measures for t in results.measured)]
    return tuple(t for t in results.measured if all(name in t.measures for name in names))


def choose_trial(
    candidates: Sequence[Trial], limits: Mapping[str, float], *, accuracy: str = "miou"
) -> Trial | None:
    """Return the most accurate network within the limits; among equals the fastest, then oldest.

    Args:
        candidates: Measured trials.
        limits: Measure -> largest value allowed, in the units of trials.csv.
        accuracy: Measure to maximise.

    Returns:
        The trial; None if no network is within the limits.
    """
    within = [
        trial
        for trial in candidates
        if accuracy in trial.measures
        and all(trial.measures.get(name, float("inf")) <= most for name, most in limits.items())
    ]
    cost = next(iter(BUDGETS))
    return max(
        within,
        key=lambda t: (t.measures[accuracy], -t.measures.get(cost, 0.0), -t.number),
        default=None,
    )


def get_export_command(results: Results, trial: Trial) -> str:
    """Return the command that writes a trial's network to deploy/ of its run.

    Args:
        results: The runs.
        trial: One of their trials.
    """
    folder = str(results.get_run(trial).folder)
    words = ["python", "-m", "models.export", folder, "--trial", str(trial.number)]
    student = results.find_student(trial)
    if student is not None and _is_of_the_user(student.model):
        words += ["--factory", student.model]  # its code runs only if it is named
    return shlex.join(words)


def _is_of_the_user(model: str) -> bool:
    """Whether a network is neither ours nor a library's: package.module:factory or a file's."""
    return ":" in model and not model.startswith(("smp:", "torchvision:"))


def describe_numbers(trial: Trial) -> list[tuple[str, str]]:
    """Return the main numbers of a chosen network, as names and texts with units."""
    labels = {"miou": "mIoU", **BUDGETS, "macs": "MACs"}
    return [
        (label, get_quantity(name, label).text(trial.measures[name]))
        for name, label in labels.items()
        if name in trial.measures
    ]


def describe_choice(results: Results, limits: Mapping[str, float]) -> str:
    """Return the answer for a budget as lines of text for a terminal.

    Args:
        results: The runs.
        limits: As in `choose_trial`.
    """
    asked = " and ".join(
        f"{BUDGETS[name].lower()} at most {get_quantity(name).text(most)}"
        for name, most in limits.items()
    )
    candidates = find_candidates(results)
    trial = choose_trial(candidates, limits)
    if trial is None:
        lines = [f"None of the {len(candidates)} measured networks has {asked}."]
        for name in limits:
            known = [t.measures[name] for t in candidates if name in t.measures]
            if known:
                least = get_quantity(name).text(min(known))
                lines.append(f"The smallest {BUDGETS[name].lower()} found is {least}.")
        return "\n".join(lines)
    run = results.get_run(trial)
    rows = [
        ("network", f"trial {results.label(trial)} ({asked})"),
        *describe_numbers(trial),
        *_describe_test(results, trial),
        ("checkpoint", str(run.folder / "stages" / trial.answer)),
        ("export", get_export_command(results, trial)),
    ]
    return "\n".join(f"{label:>12}: {text}" for label, text in rows)


def get_chooser_data(results: Results) -> dict[str, Any]:
    """Return the data of the report's sliders, in a form that JSON can hold.

    Returns:
        `budgets` has the name, label, unit, smallest and largest value of each measure that can be
        limited, in shown units. `networks` has the label, run, key, values in shown units, texts
        and export command of each candidate, the most accurate first.
    """
    candidates = sorted(
        (trial for trial in find_candidates(results) if "miou" in trial.measures),
        key=lambda t: (-t.measures["miou"], t.measures.get(next(iter(BUDGETS)), 0.0), t.number),
    )
    quantities = {
        name: get_quantity(name, label)
        for name, label in BUDGETS.items()
        if candidates and name in candidates[0].measures
    }
    values = {name: [t.measures[name] for t in candidates] for name in quantities}
    return {
        "budgets": [
            {
                "name": name,
                "label": quantity.label,
                "unit": quantity.unit,
                "least": quantity.shown(min(values[name])),
                "most": quantity.shown(max(values[name])),
            }
            for name, quantity in quantities.items()
        ],
        "networks": [
            {
                "label": results.label(trial),
                "run": trial.run,
                "key": f"trial-{trial.number}",
                "values": [q.shown(trial.measures[name]) for name, q in quantities.items()],
                "texts": [*describe_numbers(trial), *_describe_test(results, trial)],
                "command": get_export_command(results, trial),
            }
            for trial in candidates
        ],
    }


def _describe_test(results: Results, trial: Trial) -> list[tuple[str, str]]:
    score = results.get_run(trial).held_out.get(f"trial-{trial.number}")
    return [] if score is None else [("mIoU on test", get_quantity("miou").text(score.miou))]
