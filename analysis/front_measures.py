"""Computes further measures of the front's members: speed-ups, and how certain their rank is."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np

from analysis.noisy_front import estimate_probability_non_dominated, pool_deviation
from analysis.results import Results, Trial

NOISY = "miou"


def derive_measures(results: Results, front: Sequence[Trial]) -> list[dict[str, float]]:
    """Compute further measures of every member of the front.

    `test_miou` is the mIoU on the test split, if the run has evaluated it.

    Compared with the dense network of the same run: `speedup` is the dense latency divided by the
    member's, `speedup_theoretical` the same for MACs, and `speedup_realised_share` the first
    divided by the second, which shows how much of the saved arithmetic becomes saved time.

    For members that were fine-tuned again: `num_retrainings`, `retrained_miou_mean`,
    `retrained_miou_std` (with n - 1), and `probability_non_dominated` among all such members. These
    leave out the search's own mIoU, because the front was selected by it.

    Args:
        results: The runs.
        front: Members of their front.

    Returns:
        Known measures of each member by name.
    """
    confirmed = _confirm(results, front)
    return [
        {**_find_test_miou(results, trial), **_compare_with_dense(results, trial), **more}
        for trial, more in zip(front, confirmed, strict=True)
    ]


def _find_test_miou(results: Results, trial: Trial) -> dict[str, float]:
    score = results.get_run(trial).held_out.get(f"trial-{trial.number}")
    return {} if score is None else {"test_miou": score.miou}


def _compare_with_dense(results: Results, trial: Trial) -> dict[str, float]:
    student = results.find_student(trial)
    dense = student.values if student else {}
    factors = {}
    for name, measure in (("speedup", "latency_ms"), ("speedup_theoretical", "macs")):
        before, after = dense.get(measure, 0.0), trial.measures.get(measure, 0.0)
        if before > 0 and after > 0:
            factors[name] = before / after
    if len(factors) == 2:
        factors["speedup_realised_share"] = factors["speedup"] / factors["speedup_theoretical"]
    return factors


def _confirm(results: Results, front: Sequence[Trial]) -> list[dict[str, float]]:
    samples = [results.get_run(trial).retrainings.get(trial.number, ()) for trial in front]
    measures: list[dict[str, float]] = []
    for values in samples:
        known: dict[str, float] = {}
        if values:
            known["num_retrainings"] = len(values)
            known["retrained_miou_mean"] = statistics.fmean(values)
        if len(values) > 1:
            known["retrained_miou_std"] = statistics.stdev(values)
        measures.append(known)
    retrained = [index for index, values in enumerate(samples) if values]
    chosen = [samples[index] for index in retrained]
    if pool_deviation(chosen)[1] and results.find_objective(NOISY) is not None:
        exact = [objective for objective in results.objectives if objective.name != NOISY]
        costs = np.array(
            [
                [front[i].measures[o.name] * (-1 if o.maximize else 1) for o in exact]
                for i in retrained
            ]
        ).reshape(len(retrained), len(exact))
        for index, value in zip(
            retrained, estimate_probability_non_dominated(chosen, costs), strict=True
        ):
            measures[index]["probability_non_dominated"] = float(value)
    return measures
