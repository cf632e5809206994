"""Per-class IoU of every member of the front against the uncompressed network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from analysis.results import Results, Run
from analysis.summary import Summary

IOU = "iou/"
REFERENCE = "dense"


class ClassIoUInfo(NamedTuple):
    """The heat map.

    Attributes:
        classes: Names, in the order of the labels.
        reference: IoU of the uncompressed network by class, in 0..1; empty if it is not known.
        networks: Label of each member of the front, in the order of the front.
        values: Member -> class -> IoU in 0..1; without the classes that never occur.
    """

    classes: list[str]
    reference: Mapping[str, float]
    networks: list[str]
    values: Sequence[Mapping[str, float]]

    def get_change(self, network: int, name: str) -> float | None:
        """IoU that a member gains over the uncompressed network, in -1..1, if both are known."""
        before, after = self.reference.get(name), self.values[network].get(name)
        return None if before is None or after is None else after - before


def get_class_iou_info(results: Results, summary: Summary) -> ClassIoUInfo:
    """Collect the IoUs: of members from trials.csv, of the uncompressed network from its stage."""
    values = [
        {
            name.removeprefix(IOU): value
            for name, value in trial.measures.items()
            if name.startswith(IOU)
        }
        for trial in summary.front
    ]
    reference = next((found for run in results.runs if (found := _read_reference(run))), {})
    names = dict.fromkeys([*reference, *(name for value in values for name in value)])
    stated = (results.runs[0].metadata.get("dataset") or {}).get("classes") or []
    order = {str(name): position for position, name in enumerate(stated)}
    classes = sorted(names, key=lambda name: order.get(name, len(order)))
    labels = [f"Trial {results.label(trial)}" for trial in summary.front]
    return ClassIoUInfo(classes, reference, labels, values)


def _read_reference(run: Run) -> Mapping[str, float]:
    """Read the uncompressed network's IoU where its stage lies here, else from the pictures."""
    stage = next((item.stage for item in run.baselines if item.name == REFERENCE), "")
    path = run.folder / "stages" / stage / "result.json"
    if stage and path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("result", content).get("iou") or {}
        return {str(name): float(value) for name, value in found.items() if value is not None}
    networks = run.pictures.networks if run.pictures else ()
    return next((network.iou for network in networks if network.role == REFERENCE), {})
