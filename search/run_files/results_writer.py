"""Keeps the results files of a run up to date while it runs."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.files.atomic_file import write_atomically
from search.config import StudyConfig
from search.pipelines.study import PipelineStudy
from search.run_files.answer import read_kept_out
from search.run_files.results import (
    METADATA_FILE,
    TRIALS_FILE,
    now,
    reference_point,
    write_metadata,
    write_trials,
)
from trainables.pipeline import Baseline, DatasetSummary, build_baselines

WRITING_SHARE = 0.05  # largest share of the time for trials.csv, whose long tables take seconds


class ResultsWriter:
    """Writes trials.csv and metadata.json of a run.

    Args:
        study: Study whose trials are written.
        folder: Folder of the run.
        dataset: Summary of the data set.

    Attributes:
        time: Time and money spent and what was left out, as in metadata.json.
        baselines: Uncompressed networks measured so far, also in an earlier session.
    """

    def __init__(self, study: PipelineStudy, folder: Path, dataset: DatasetSummary) -> None:
        self._study = study
        self._folder = folder
        self._dataset = dataset
        self._write_again_at = 0.0
        self.time: Mapping[str, Any] = {}
        self.baselines: list[Baseline] = []
        if not study.num_unfinished and (folder / METADATA_FILE).exists():
            content = json.loads((folder / METADATA_FILE).read_text())
            self.baselines = [Baseline.restore(entry) for entry in content["baselines"]]

    @property
    def config(self) -> StudyConfig:
        """Configuration of the study."""
        return self._study.config

    @property
    def missing(self) -> list[str]:
        """Names of the uncompressed networks that are not trained and measured yet."""
        known = {baseline.name for baseline in self.baselines}
        return [name for name in build_baselines(self.config.pipeline) if name not in known]

    @property
    def reference(self) -> Mapping[str, float]:
        """Reference point of the hypervolume; empty until an uncompressed student is measured."""
        return reference_point(self.config, self.baselines)

    def update(
        self, baselines: Sequence[Baseline], device: str, hardware: Mapping[str, Any] | None
    ) -> None:
        """Write the files that have changed; trials.csv is written less often if it takes long.

        Args:
            baselines: Uncompressed networks measured so far.
            device: Torch device of the trials.
            hardware: Hardware of the trials' machine; None: this machine.
        """
        if len(baselines) > len(self.baselines):
            self.baselines = list(baselines)
            path = self._folder / METADATA_FILE
            created_at = json.loads(path.read_text())["created_at"] if path.exists() else now()
            write_metadata(
                path,
                self.config,
                self._dataset,
                self.baselines,
                device=device,
                created_at=created_at,
                hardware=hardware,
                time=self.time,
            )
        started = time.monotonic()
        if started >= self._write_again_at:
            self.write_trials()
            ended = time.monotonic()
            self._write_again_at = ended + (ended - started) / WRITING_SHARE

    def write_time(self, content: Mapping[str, Any]) -> None:
        """Write into metadata.json, once there is one, what the study has spent and left out.

        Args:
            content: JSON-able; takes the place of what was there.
        """
        self.time = content
        path = self._folder / METADATA_FILE
        if path.exists():
            metadata = json.loads(path.read_text())
            write_atomically(path, json.dumps({**metadata, "time": content}, indent=1) + "\n")

    def write_trials(self) -> None:
        """Write trials.csv."""
        records = self._study.records.values()
        kept_out = read_kept_out(self._folder)
        write_trials(self._folder / TRIALS_FILE, records, self.config.objectives, kept_out)
