"""The rungs of a study's distillation: who has paused where, and who goes on."""

from __future__ import annotations

from collections.abc import Mapping

from search.objectives import OBJECTIVES
from search.pipelines.study import PipelineStudy
from search.pipelines.successive_halving import SuccessiveHalving


class Rungs:
    """Successive halving over the study's pipelines, which remembers earlier sessions.

    Args:
        study: Its finished trials have reached their rungs before.

    Attributes:
        paused: The share of the distillation at which each paused pipeline waits, by number.
    """

    def __init__(self, study: PipelineStudy) -> None:
        config = study.config
        self._shares = config.rungs
        self._halving: SuccessiveHalving[int] = SuccessiveHalving(
            max(1, len(config.rungs)),
            reduction_factor=config.reduction_factor,
            directions={name: OBJECTIVES[name].direction for name in config.objectives},
        )
        self.paused: dict[int, float] = {}
        for record in study.records.values():
            if record.state != "running":
                self._remember(record.number, record.metrics)

    def pause(self, number: int, share: float, metrics: Mapping[str, float]) -> None:
        """Note that a pipeline paused.

        Args:
            number: Of the pipeline.
            share: One of the study's rungs.
            metrics: What is known of it, "miou@<share>" among it.
        """
        there = {**metrics, "miou": metrics[f"miou@{share:g}"]}
        self._halving.report(number, self._shares.index(share), there)
        self.paused[number] = share

    def promote(self) -> int | None:
        """Choose who goes on; None to let all wait."""
        number = self._halving.promote()
        if number is not None:
            self.paused.pop(number, None)
        return number

    def _remember(self, number: int, metrics: Mapping[str, float]) -> None:
        reached = [share for share in self._shares if f"miou@{share:g}" in metrics]
        for share in reached:
            self.pause(number, share, metrics)
        self.paused.pop(number, None)
        passed = len(reached) - ("miou" not in metrics)
        for rung in range(passed):
            self._halving.note_promoted(number, rung)
