"""confirmation.csv: what came of the further fine-tunings of the front."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from models.files.atomic_file import write_atomically
from trainables.pipeline import PATH

CONFIRMATION_FILE = "confirmation.csv"
STAGE = PATH[-1]
COLUMNS = ("trial", "seed", "state", "reason", "miou", f"stage/{STAGE}", f"seconds/{STAGE}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retraining:
    """A further fine-tuning of a member of the front.

    Attributes:
        trial: Number of the member's trial in the study.
        seed: Of this fine-tuning.
        state: complete or failed.
        reason: Why it failed, empty when complete.
        miou: In 0..1; None when failed.
        stage: Folder in the store, empty when failed.
        seconds: Of work; 0 where the stage was found in the store.
    """

    trial: int
    seed: int
    state: Literal["complete", "failed"]
    reason: str = ""
    miou: float | None = None
    stage: str = ""
    seconds: float = 0.0


def write_retrainings(path: Path, retrainings: Iterable[Retraining]) -> None:
    """Write confirmation.csv, one row per retraining, by trial and seed.

    Args:
        path: File to replace.
        retrainings: In any order.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for entry in sorted(retrainings, key=lambda entry: (entry.trial, entry.seed)):
        miou = "" if entry.miou is None else entry.miou
        cells = (entry.trial, entry.seed, entry.state, entry.reason, miou, entry.stage)
        writer.writerow([*cells, round(entry.seconds, 3)])
    write_atomically(path, text.getvalue())


def read_retrainings(path: Path) -> list[Retraining]:
    """Read confirmation.csv; nothing where there is none yet.

    Raises:
        ValueError: A line is damaged; names it.
    """
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        entries = []
        for row in reader:
            try:
                entries.append(_parse(row))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error!r}") from None
    return entries


def _parse(row: Mapping[str, str]) -> Retraining:
    state = row["state"]
    if state not in ("complete", "failed"):
        raise ValueError(f"state must be complete or failed, got {state!r}")
    return Retraining(
        trial=int(row["trial"]),
        seed=int(row["seed"]),
        state="complete" if state == "complete" else "failed",
        reason=row["reason"],
        miou=float(row["miou"]) if state == "complete" else None,
        stage=row[f"stage/{STAGE}"],
        seconds=float(row[f"seconds/{STAGE}"]),
    )
