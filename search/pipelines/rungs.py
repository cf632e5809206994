"""The rungs of a study's distillation: where each pipeline has paused, and which one continues."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from search.objectives import OBJECTIVES
from search.pipelines.records import TrialRecord
from search.pipelines.study import PipelineStudy
from search.pipelines.successive_halving import SuccessiveHalving
from trainables.stages import STAGES


class Rungs:
    """Successive halving over the study's pipelines, those of earlier sessions included.

    Args:
        study: Study whose finished trials have already reached their rungs.

    Attributes:
        paused: Share of the distillation at which each paused pipeline waits, by number.
    """

    def __init__(self, study: PipelineStudy) -> None:
        config = study.config
        self._shares = config.rungs
        self._pausing = config.pipeline.chain[_find_pausing(config.pipeline.chain)]
        known = _list_known(config.pipeline.chain)
        names = [name for name in config.objectives if name in known] or ["miou"]
        self._halving: SuccessiveHalving[int] = SuccessiveHalving(
            max(1, len(config.rungs)),
            reduction_factor=config.reduction_factor,
            directions={name: OBJECTIVES[name].direction for name in names},
        )
        self.paused: dict[int, float] = {}
        origins = {record.continues for record in study.records.values()}
        for record in study.records.values():
            if record.state != "running":
                self._remember(record, is_origin=record.number in origins)

    def pause(self, number: int, share: float, metrics: Mapping[str, float]) -> None:
        """Record that a pipeline has paused.

        Args:
            number: Number of the pipeline.
            share: Rung at which it paused, one of the study's.
            metrics: Its metrics so far, including "miou@<share>".
        """
        there = {**metrics, "miou": metrics[f"miou@{share:g}"]}
        self._halving.report(number, self._shares.index(share), there)
        self.paused[number] = share

    def note_passed(self, number: int) -> None:
        """Record that a pipeline goes on although it has not been chosen by `promote`.

        Its next part is run for another pipeline, such as one that continues from its network. It
        takes no promotion from the others.

        Args:
            number: Number of a pipeline; nothing changes if it does not wait at a rung.
        """
        share = self.paused.pop(number, None)
        if share is not None:
            self._halving.note_passed(number, self._shares.index(share))

    def promote(self) -> int | None:
        """Choose a paused pipeline to continue; None if all must wait."""
        number = self._halving.promote()
        if number is not None:
            self.paused.pop(number, None)
        return number

    def _remember(self, record: TrialRecord, *, is_origin: bool) -> None:
        number, metrics = record.number, record.metrics
        reached = [share for share in self._shares if f"miou@{share:g}" in metrics]
        for share in reached:
            self.pause(number, share, metrics)
        self.paused.pop(number, None)
        # A later stage may have failed, whose mIoU would have been the final one.
        is_through = "miou" in metrics or self._pausing in record.stages
        note = self._halving.note_passed if is_origin else self._halving.note_promoted
        for rung in range(len(reached) - (not is_through)):
            note(number, rung)


def _find_pausing(chain: Sequence[str]) -> int:
    """Find the stage that pauses at the rungs; 0 if none does."""
    return max((index for index, name in enumerate(chain) if STAGES[name].can_pause), default=0)


def _list_known(chain: Sequence[str]) -> set[str]:
    """List the metrics that are final at a rung, and mIoU, which has a value for each rung."""
    pausing = _find_pausing(chain)
    before, later = (
        {metric for name in part for metric in STAGES[name].reveals}
        for part in (chain[: pausing + 1], chain[pausing + 1 :])
    )
    return before - later | {"miou"}
