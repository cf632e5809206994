"""Compares the IoU of each class between the members of the front and the uncompressed network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from analysis.results import Baseline, Results, Run
from analysis.summary import Summary

IOU = "iou/"


class ClassIoUInfo(NamedTuple):
    """The content of the heat map.

    Attributes:
        classes: Names of the classes, in the order of their labels.
        references: Label of an uncompressed network -> class -> IoU in 0..1, if known.
        networks: Labels of the members of the front, in the order of the front.
        values: For each member, class -> IoU in 0..1, without classes that never occur.
        students: For each member, the label of the uncompressed network that it was made from; ""
            if unknown.
    """

    classes: list[str]
    references: Mapping[str, Mapping[str, float]]
    networks: list[str]
    values: Sequence[Mapping[str, float]]
    students: list[str]

    def get_change(self, network: int, name: str) -> float | None:
        """Return a member's IoU minus that of its uncompressed network; None if one is unknown."""
        before = self.references.get(self.students[network], {}).get(name)
        after = self.values[network].get(name)
        return None if before is None or after is None else after - before


def get_class_iou_info(results: Results, summary: Summary) -> ClassIoUInfo:
    """Collect the members' IoUs from trials.csv, and the uncompressed networks' from stages/."""
    values = [
        {
            name.removeprefix(IOU): value
            for name, value in trial.measures.items()
            if name.startswith(IOU)
        }
        for trial in summary.front
    ]
    references: dict[str, Mapping[str, float]] = {}
    students = []
    for trial in summary.front:
        student, label = results.find_student(trial), results.label_student(trial)
        students.append(label)
        if student and label not in references:
            found = read_baseline_iou(results.get_run(trial), student)
            references |= {label: found} if found else {}
    seen = [*references.values(), *values]
    names = dict.fromkeys(name for value in seen for name in value)
    stated = (results.runs[0].metadata.get("dataset") or {}).get("classes") or []
    order = {str(name): position for position, name in enumerate(stated)}
    classes = sorted(names, key=lambda name: order.get(name, len(order)))
    labels = [f"Trial {results.label(trial)}" for trial in summary.front]
    return ClassIoUInfo(classes, references, labels, values, students)


def read_baseline_iou(run: Run, baseline: Baseline) -> Mapping[str, float]:
    """Read a baseline's IoU by class from its stage if that is here, else from the pictures."""
    path = run.folder / "stages" / baseline.stage / "result.json"
    if baseline.stage and path.is_file():
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content.get("result", content).get("iou") or {}
        return {str(name): float(value) for name, value in found.items() if value is not None}
    networks = run.pictures.networks if run.pictures else ()
    return next((item.iou for item in networks if item.name == baseline.name), {})
