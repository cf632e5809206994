"""Parses the parts of metadata.json that the report needs: objectives, baselines and warnings."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.csv_tables import ResultsError
from analysis.pareto import DIRECTIONS
from analysis.quantities import Quantity, get_quantity


@dataclass(frozen=True, kw_only=True, slots=True)
class Objective:
    """An objective of the search, as metadata.json describes it.

    Attributes:
        name: Column of trials.csv.
        direction: "maximize" or "minimize".
        unit: Unit of the stored number; "" if it has none.
        label: Name to print.
        reference: Worst value that counts for the hypervolume; None if not stated.
    """

    name: str
    direction: str
    unit: str = ""
    label: str = ""
    reference: float | None = None

    def __post_init__(self) -> None:
        if self.direction not in ("maximize", "minimize"):
            raise ValueError(
                f"direction of {self.name!r} must be 'maximize' or 'minimize', "
                f"got {self.direction!r}"
            )

    @property
    def quantity(self) -> Quantity:
        """Quantity that formats the objective's values."""
        return get_quantity(self.name, self.label, self.unit)

    @property
    def maximize(self) -> bool:
        """Whether larger values are better."""
        return DIRECTIONS[self.direction]


@dataclass(frozen=True, kw_only=True, slots=True)
class Baseline:
    """A network that the search started from, e.g. the teacher or the dense student.

    Attributes:
        name: Name in tables, such as "teacher" or "dense".
        model: Name of its architecture.
        values: Measured numbers by name.
        stage: Folder of the network in stages/; "" if not stated.
        role: "teacher", or "student" for an uncompressed network.
    """

    name: str
    model: str
    values: Mapping[str, float]
    stage: str = ""
    role: str = "student"

    @property
    def title(self) -> str:
        """Name at the start of a line; the name of an architecture stays as it is."""
        return self.name.capitalize() if self.name in ("teacher", "dense") else self.name


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file that contains one object.

    Raises:
        ResultsError: The file is missing or contains something else; the message names it.
    """
    if not path.is_file():
        raise ResultsError(f"{path}: missing (is {path.parent} a run folder?)")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultsError(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ResultsError(
            f"{path}: must contain a JSON object, contains a {type(content).__name__}"
        )
    return content


def parse_objectives(metadata: Mapping[str, Any], path: Path) -> list[Objective]:
    """Return the objectives that metadata.json lists.

    Raises:
        ResultsError: There is none, or one is broken; the message names the file and the entry.
    """
    entries = metadata.get("objectives")
    if not isinstance(entries, list) or not entries:
        raise ResultsError(f"{path}: 'objectives' must be a list of at least one, got {entries!r}")
    objectives = []
    for entry in entries:
        try:
            reference = entry.get("reference")
            objectives.append(
                Objective(
                    name=str(entry["name"]),
                    direction=str(entry["direction"]),
                    unit=str(entry.get("unit") or ""),
                    label=str(entry.get("label") or entry["name"]),
                    reference=None if reference is None else float(reference),
                )
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ResultsError(
                f"{path}: 'objectives' has a bad entry {entry!r}: {error}"
            ) from error
    return objectives


def parse_baselines(metadata: Mapping[str, Any], path: Path) -> tuple[Baseline, ...]:
    """Return the uncompressed networks that metadata.json lists.

    Raises:
        ResultsError: One has no name; the message names the file and the entry.
    """
    baselines = []
    for entry in metadata.get("baselines") or []:
        if not isinstance(entry, dict) or "name" not in entry:
            raise ResultsError(f"{path}: 'baselines' has an entry without a name: {entry!r}")
        values = {
            key: float(value)
            for key, value in entry.items()
            if isinstance(value, int | float) and not isinstance(value, bool)
        }
        model = str(entry.get("model") or "")
        name = str(entry["name"])
        role = str(entry.get("role") or ("teacher" if name == "teacher" else "student"))
        stage = str(entry.get("stage") or "")
        baselines.append(Baseline(name=name, model=model, values=values, stage=stage, role=role))
    return tuple(baselines)


def parse_warnings(metadata: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Return the warnings of the run, such as doubtful data or layers that cannot be pruned.

    Raises:
        ResultsError: The entry is not a list of texts; the message names the file.
    """
    found = metadata.get("warnings") or []
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise ResultsError(f"{path}: 'warnings' must be a list of texts, got {found!r}")
    return tuple(found)
