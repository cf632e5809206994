"""Reads and writes confirmation.csv, the results of the front's retrainings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from models.files.atomic_file import write_atomically

CONFIRMATION_FILE = "confirmation.csv"
COLUMNS = ("trial", "seed", "state", "reason", "miou", "network", "seconds")


@dataclass(frozen=True, kw_only=True, slots=True)
class Retraining:
    """A further fine-tuning of a member of the front.

    Attributes:
        trial: Trial number of the member in the study.
        seed: Seed of this fine-tuning.
        state: complete or failed.
        reason: Reason why it failed; "" if it is complete.
        miou: mIoU in 0..1; None if it failed.
        network: Folder of the network in the store; "" if it failed.
        seconds: Seconds of work; 0 if the stage was found in the store.
    """

    trial: int
    seed: int
    state: Literal["complete", "failed"]
    reason: str = ""
    miou: float | None = None
    network: str = ""
    seconds: float = 0.0


def write_retrainings(path: Path, retrainings: Iterable[Retraining]) -> None:
    """Write confirmation.csv with one row per retraining, sorted by trial and seed.

    Args:
        path: File to replace.
        retrainings: Retrainings, in any order.
    """
    ordered = sorted(retrainings, key=lambda entry: (entry.trial, entry.seed))
    rows = [asdict(entry) | {"seconds": round(entry.seconds, 3)} for entry in ordered]
    table = pd.DataFrame(rows, columns=COLUMNS, dtype=object)
    write_atomically(path, table.to_csv(index=False, lineterminator="\n"))


def read_retrainings(path: Path) -> list[Retraining]:
    """Read confirmation.csv; an empty list if there is none yet.

    Raises:
        ValueError: A line is damaged; the message names it.
    """
    if not path.exists():
        return []
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    entries = []
    for line, row in enumerate(table.to_dict("records"), start=2):
        try:
            entries.append(_parse(row))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: {error!r}") from None
    return entries


def _parse(row: Mapping[Any, str]) -> Retraining:
    state = row["state"]
    if state not in ("complete", "failed"):
        raise ValueError(f"state must be complete or failed, got {state!r}")
    return Retraining(
        trial=int(row["trial"]),
        seed=int(row["seed"]),
        state="complete" if state == "complete" else "failed",
        reason=row["reason"],
        miou=float(row["miou"]) if state == "complete" else None,
        network=row["network"],
        seconds=float(row["seconds"]),
    )
