"""Settings of a method's part that compares maps inside the networks."""

from __future__ import annotations

from dataclasses import dataclass

from trainables.distillers.checks import check_weight, split_layers
from trainables.ranges import FloatRange, setting

WEIGHTS = FloatRange(low=0.1, high=10.0, log=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class MapPartSettings:
    """Settings of one part that compares maps inside the networks; it is scaled by weight.

    Attributes:
        weight: Weight of this part, at least 0; the labels have weight 1.
        layers: Names of the student's layers, comma separated; empty: found automatically.
        teacher_layers: Names of the teacher's layers, in the same order.
    """

    weight: float = setting(1.0, WEIGHTS, symbol="w")
    layers: str = setting("", ("",))
    teacher_layers: str = setting("", ("",))

    def __post_init__(self) -> None:
        check_weight("weight", self.weight)
        split_layers(self.layers, self.teacher_layers)
