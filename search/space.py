"""The space of pipelines: a range or a few choices for every setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal

import tyro
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from trainables.distillers import DistillerName
from trainables.pipeline_config import PipelineSettings
from trainables.ranges import DIGITS, FloatRange


def _parse_choices(words: list[str]) -> tuple[float, ...] | FloatRange:
    """Read `LOW..HIGH` as a logarithmic range, anything else as choices."""
    if len(words) == 1 and ".." in words[0]:
        low, high = words[0].split("..", 1)
        return FloatRange(low=float(low), high=float(high), log=True)
    return tuple(map(float, words))


def _format_choices(values: tuple[float, ...] | FloatRange) -> list[str]:
    if isinstance(values, FloatRange):
        return [f"{values.low:g}..{values.high:g}"]
    return [str(value) for value in values]


# One flag for both: tyro by itself would make a subcommand of each member of the union.
ChoicesOrRange = Annotated[
    tuple[float, ...] | FloatRange,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="FLOAT [FLOAT ...] | LOW..HIGH",
        instance_from_str=_parse_choices,
        is_instance=lambda value: isinstance(value, tuple | FloatRange),
        str_from_instance=_format_choices,
    ),
]


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace:
    """Where pipelines are looked for. One choice, or low == high, fixes a setting.

    lambda and the pruning ratio lie on grids, so that pipelines share the stages before them; the
    distillation's weights are continuous.

    Attributes:
        sparsity_lambda: Factors of the L1 norm of the BatchNorm scales; or LOW..HIGH for any
            between them, on a logarithmic scale, where hardly two pipelines share a sparse network.
        pruning_ratio: Fraction of channels removed, within 0..1.
        scope: Whether that fraction holds in every layer (local) or over the network (global).
        round_to: Channel counts are kept at multiples of one of these.
        distiller: Losses of the fine-tuning: dkd, kd, none.
        temperature: T of the distillation.
        alpha: Weight of TCKD.
        beta: Weight of NCKD.
        eta: Weight of the cross-entropy.
        lr: Peak learning rate of the fine-tuning.
    """

    sparsity_lambda: ChoicesOrRange = (1e-5, 1e-4, 1e-3)
    pruning_ratio: FloatRange = field(
        default_factory=lambda: FloatRange(low=0.3, high=0.7, step=0.1)
    )
    scope: tuple[Literal["local", "global"], ...] = ("local", "global")
    round_to: tuple[int, ...] = (1,)
    distiller: tuple[DistillerName, ...] = ("dkd",)
    temperature: FloatRange = field(default_factory=lambda: FloatRange(low=1.0, high=8.0))
    alpha: FloatRange = field(default_factory=lambda: FloatRange(low=0.0, high=2.0))
    beta: FloatRange = field(default_factory=lambda: FloatRange(low=0.0, high=10.0))
    eta: FloatRange = field(default_factory=lambda: FloatRange(low=0.5, high=2.0))
    lr: FloatRange = field(default_factory=lambda: FloatRange(low=0.003, high=0.03, log=True))

    def __post_init__(self) -> None:
        for entry in fields(self):
            choices = getattr(self, entry.name)
            if isinstance(choices, tuple) and (not choices or len(set(choices)) < len(choices)):
                raise ValueError(
                    f"space.{entry.name} needs at least one choice and none twice, got {choices}"
                )
        if "kd" in self.distiller and self.alpha.high > 1:
            raise ValueError(f"space.alpha must end at 1 for plain kd, got {self.alpha.high}")
        if not self.temperature.low > 0:
            raise ValueError(f"space.temperature must be above 0, got {self.temperature.low}")
        for name in ("alpha", "beta", "eta"):
            if getattr(self, name).low < 0:
                raise ValueError(f"space.{name} must be at least 0, got {getattr(self, name).low}")
        for setting in ("sparsity_lambda", "pruning_ratio", "round_to", "lr"):
            for value in _extremes(getattr(self, setting)):
                try:
                    PipelineSettings(**{setting: value})
                except ValueError as error:
                    raise ValueError(f"space.{setting}: {error}") from None

    def distributions(self) -> dict[str, BaseDistribution]:
        """What is suggested, by name; settings that have one value are left out."""
        found: dict[str, BaseDistribution] = {}
        for entry in fields(self):
            values = getattr(self, entry.name)
            if isinstance(values, FloatRange):
                if values.low < values.high:
                    found[entry.name] = FloatDistribution(
                        values.low, values.high, log=values.log, step=values.step
                    )
            elif len(values) > 1:
                found[entry.name] = CategoricalDistribution(values)
        return found

    def to_settings(self, params: Mapping[str, Any]) -> PipelineSettings:
        """Complete suggested values with the fixed ones.

        Args:
            params: A value for every name of `distributions`.
        """
        chosen: dict[str, Any] = {}
        for entry in fields(self):
            values = getattr(self, entry.name)
            is_range = isinstance(values, FloatRange)
            fixed = values.low if is_range else values[0]
            value = params.get(entry.name, fixed)
            if is_range and values.step is not None:
                value = round(value, DIGITS)
            chosen[entry.name] = value
        return PipelineSettings(**chosen)

    def contains(self, settings: PipelineSettings) -> bool:
        """Whether a pipeline lies in the space."""
        return not self.find_outside(settings)

    def find_outside(self, settings: PipelineSettings) -> list[str]:
        """Names of the settings with which a pipeline lies outside the space."""
        outside = []
        for entry in fields(self):
            values, value = getattr(self, entry.name), getattr(settings, entry.name)
            inside = values.contains(value) if isinstance(values, FloatRange) else value in values
            if not inside:
                outside.append(entry.name)
        return outside


def _extremes(values: FloatRange | tuple[Any, ...]) -> tuple[Any, ...]:
    return (values.low, values.high) if isinstance(values, FloatRange) else values
