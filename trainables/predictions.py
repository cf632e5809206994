"""Write a run's pictures/ and test.csv with the predictions of its baselines and its front.

A study calls `write_predictions` at its end; the command does the same for a finished run:
  python -m trainables.predictions RUN_DIR
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from pydantic import TypeAdapter

from models.files.atomic_file import write_atomically
from trainables.context import StageContext, detect_device
from trainables.data.cache import CachedDataset
from trainables.data.checks import warn_of_overlap
from trainables.data.dataset import DataError
from trainables.data_source import DataConfig
from trainables.predicting.held_out_scores import write_test_scores
from trainables.predicting.pictures import FOLDER, INDEX, PictureLimits, write_pictures
from trainables.predicting.run_networks import find_networks
from trainables.process.device_lock import DeviceLock

PROGRAM = "python -m trainables.predictions"


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Write predictions of a finished run.

    Attributes:
        run_dir: Folder of a run.
        test: Evaluate on the data set's test split, if it has one.
        device: Torch device: cpu, cuda or cuda:N.
        num_threads: Number of CPU threads; default: all cores.
        pictures: Limits on the evaluation and on the size of the pictures.
    """

    run_dir: tyro.conf.Positional[Path]
    test: bool = True
    device: str = field(default_factory=detect_device)
    num_threads: int | None = None
    pictures: PictureLimits = field(default_factory=PictureLimits)


def write_predictions(
    run_dir: Path,
    data: DataConfig,
    context: StageContext,
    *,
    test: bool = True,
    limits: PictureLimits | None = None,
) -> list[str]:
    """Write pictures/ from the validation split, and test.csv from the test split.

    It reads trials.csv and metadata.json, so call it after these are written and before the report.

    Args:
        run_dir: Folder of the run, with the checkpoints of the front in stages/.
        data: The study's data set.
        context: Device, threads and lock.
        test: Whether to evaluate on the test split, if the data set has one.
        limits: Limits on the evaluation and on the size of the pictures.

    Returns:
        Notes for the user, which pictures/index.json also contains.

    Raises:
        ValueError: The run's files or the validation data cannot be read.
    """
    networks = find_networks(run_dir)
    validation = data.open_cached("val", context.cache_dir)
    notes = write_pictures(run_dir, networks, validation, context, limits)
    if test:
        dataset, found = _open_test(data, validation, context.cache_dir)
        if dataset is not None:
            found = [*found, *write_test_scores(run_dir, networks, dataset, context)]
        _add_notes(run_dir / FOLDER / INDEX, found)
        notes += found
    return notes


def _open_test(
    data: DataConfig, validation: CachedDataset, cache_dir: Path
) -> tuple[CachedDataset | None, list[str]]:
    """Open the test split, and return what is doubtful about it or why it is not used."""
    try:
        if not data.has_split("test"):
            return None, [f"not evaluated on a test split: data set {data.name!r} has none"]
        dataset = data.open_cached("test", cache_dir)
    except (DataError, OSError) as error:  # such as a disk without room for its cache
        return None, [f"not evaluated on a test split: {error}"]
    if not any(dataset.label_counts):
        return None, ["not evaluated on a test split: it has no labels"]
    doubts = [*dataset.warnings, *warn_of_overlap(validation, dataset)]
    try:
        doubts += warn_of_overlap(data.open_cached("train", cache_dir), dataset)
    except (DataError, OSError) as error:
        doubts.append(f"it is not compared with the training images: {error}")
    return dataset, [f"test split: {text}" for text in doubts]


def _add_notes(index: Path, notes: Sequence[str]) -> None:
    if notes and index.is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["notes"] += notes
        write_atomically(index, json.dumps(content, indent=1) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit status: 0, or 2 for bad input.
    """
    logging.basicConfig(level="INFO", format="%(message)s")
    arguments = tyro.cli(Arguments, args=argv, prog=PROGRAM, description=__doc__)
    try:
        data, cache_dir = _read_config(arguments.run_dir)
        context = StageContext(
            cache_dir=cache_dir,
            device=arguments.device,
            num_threads=arguments.num_threads,
            device_lock=DeviceLock(arguments.device),
        )
        notes = write_predictions(
            arguments.run_dir, data, context, test=arguments.test, limits=arguments.pictures
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for note in notes:
        print(f"note: {note}", file=sys.stderr)
    print(arguments.run_dir / FOLDER)
    return 0


def _read_config(run_dir: Path) -> tuple[DataConfig, Path]:
    """Read a run's data set and the folder of its decoded images."""
    path = run_dir / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        data, cache_dir = config["pipeline"]["data"], Path(config["cache_dir"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} must be the configuration of a run: {error!r}") from error
    return TypeAdapter(DataConfig).validate_python(data), cache_dir


if __name__ == "__main__":
    sys.exit(main())
