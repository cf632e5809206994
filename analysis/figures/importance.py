"""Draws how important each setting was for each objective."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import NamedTuple

import optuna
import plotly.graph_objects as go
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)
from plotly.subplots import make_subplots

from analysis.figures import theme
from analysis.results import Objective, Results

MIN_TRIALS = 20
TARGET_QUANTILE = 0.25


class ObjectiveImportance(NamedTuple):
    """Importance of every setting for one objective, the largest first; the sum is 1."""

    label: str
    settings: list[str]
    importances: list[float]


class ImportanceInfo(NamedTuple):
    """The content of the figure: one panel for each objective that varies."""

    panels: list[ObjectiveImportance]


def plot_importance(results: Results) -> go.Figure:
    """Draw how much each setting mattered for each objective.

    Source: Watanabe, Bansal, Hutter, "PED-ANOVA: Efficiently Quantifying Hyperparameter Importance
        in Arbitrary Subspaces", IJCAI 2023. Optuna computes it from the measured trials, for
        reaching the best quarter of each objective.

    Raises:
        FigureNotMadeError: There are too few measured trials, or nothing varies.
    """
    info = _get_importance_info(results)
    titles = [escape(panel.label) for panel in info.panels]
    figure = make_subplots(cols=len(titles), subplot_titles=titles, shared_yaxes=True)
    order = info.panels[0].settings[::-1]
    for column, panel in enumerate(info.panels, start=1):
        figure.add_bar(
            x=panel.importances,
            y=[escape(name) for name in panel.settings],
            orientation="h",
            marker={"color": theme.FRONT},
            row=1,
            col=column,
            showlegend=False,
            hovertemplate="%{y}  %{x:.2f}<extra></extra>",
        )
    figure.update_xaxes(theme.axis("Importance", range=[0, 1], nticks=4))
    figure.update_yaxes(
        theme.axis("", categoryorder="array", categoryarray=[escape(n) for n in order], ticks="")
    )
    figure.update_annotations(font={"size": 13, "color": theme.INK})
    theme.apply_theme(figure, height=130 + 28 * len(order))
    figure.update_layout(bargap=0.45, margin={"t": 36})
    return figure


def _get_importance_info(results: Results) -> ImportanceInfo:
    measured = results.measured
    if len(measured) < MIN_TRIALS:
        raise theme.FigureNotMadeError(
            f"{len(measured)} measured networks are too few to tell important settings from luck; "
            f"this figure needs at least {MIN_TRIALS}."
        )
    distributions = _get_distributions(results)
    if not distributions:
        raise theme.FigureNotMadeError("No setting varied between the measured networks.")
    panels = [
        _get_panel(results, objective, distributions)
        for objective in results.objectives
        if len({trial.measures[objective.name] for trial in measured}) > 1
    ]
    if not panels:
        raise theme.FigureNotMadeError("Every measured network has the same objectives.")
    return ImportanceInfo(panels)


def _get_panel(
    results: Results, objective: Objective, distributions: dict[str, BaseDistribution]
) -> ObjectiveImportance:
    # PED-ANOVA assumes that lower values are better.
    sign = -1.0 if objective.maximize else 1.0
    with _quiet_optuna():
        study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="minimize")
    study.add_trials(
        [
            optuna.trial.create_trial(
                params={name: trial.settings[name] for name in distributions},
                distributions=distributions,
                value=sign * trial.measures[objective.name],
            )
            for trial in results.measured
        ]
    )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=TARGET_QUANTILE)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    ranked = sorted(found.items(), key=lambda item: -item[1])
    return ObjectiveImportance(
        objective.label,
        [results.setting_labels[name] for name, _ in ranked],
        [share for _, share in ranked],
    )


def _get_distributions(results: Results) -> dict[str, BaseDistribution]:
    """Return a distribution for each setting that varies and that all measured trials have."""
    distributions: dict[str, BaseDistribution] = {}
    for name in results.varied_settings:
        values = [trial.settings.get(name) for trial in results.measured]
        if None in values or len(set(values)) < 2:
            continue
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if len(numbers) == len(values):
            low, high = float(min(numbers)), float(max(numbers))
            is_log = low > 0 and high / low >= 30
            distributions[name] = FloatDistribution(low, high, log=is_log)
        else:
            distributions[name] = CategoricalDistribution(
                sorted({value for value in values if value is not None}, key=str)
            )
    return distributions


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Silence Optuna's message about a new study, which here only serves a figure."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(verbosity)
