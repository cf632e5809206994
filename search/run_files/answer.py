"""Writes the answer of a finished study: files to deploy, pictures, and test scores."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from models.deployment.bundle import is_complete_bundle
from models.deployment.run_folder import find_network_folder
from models.engines import EngineError
from models.engines.onnx_graph import ExportError
from models.files.atomic_file import write_atomically
from models.timing.host import HostError
from search.pipelines.front import find_front
from search.pipelines.records import TrialRecord
from search.pipelines.study import PipelineStudy
from search.run_files.results import METADATA_FILE
from trainables.artifacts.artifact_files import RESULT_FILE
from trainables.artifacts.remote_stages import STAGES_FOLDER
from trainables.context import StageContext
from trainables.deployment import deploy_network
from trainables.pipeline import Baseline
from trainables.predicting.run_networks import KEPT_OUT_FILE
from trainables.predictions import write_predictions

DEPLOY_FOLDER = "deploy"
FAULTS = (ValueError, RuntimeError, OSError, MemoryError)  # of the machine, such as a full GPU

logger = logging.getLogger(__name__)


def deploy_front(
    study: PipelineStudy,
    folder: Path,
    context: StageContext,
    fetch: Callable[[Sequence[str]], None] | None = None,
) -> tuple[dict[int, str], list[str]]:
    """Write `deploy/<trial>/` for each member of the front, after running it in its engine.

    A network is kept out of the front if its file does not compute what the network computes in
    PyTorch, or cannot be written or run. Another network may then enter the front, and is deployed
    too. Complete folders are not written again. A fault of the machine keeps no network out: the
    next session tries again.

    Args:
        study: Study that is over.
        folder: Folder of the run, whose metadata.json has the device of the latencies.
        context: Device and folders for running the files.
        fetch: Function that fetches artefacts from storage into the folder, given their names; None
            if the run is in a local folder.

    Returns:
        Reasons why networks are kept out, by trial number (also written to
        `deploy/kept_out.json`), and a sentence for each network that could not be deployed now.
    """
    place = folder / DEPLOY_FOLDER
    device = json.loads((folder / METADATA_FILE).read_text())["latency"]["device"]
    kept_out = read_kept_out(folder)
    tried: set[int] = set()
    notes: list[str] = []
    objectives = study.config.objectives
    while left := [
        record
        for record in find_front(study.records.values(), objectives, kept_out)
        if record.number not in tried
    ]:
        if fetch is not None:
            fetch([name for record in left for name in record.artefacts])
        for record in left:
            tried.add(record.number)
            if is_complete_bundle(place / str(record.number)):
                continue
            try:
                reason = _deploy(study, record, folder, context, device)
            except FAULTS as error:
                text = " ".join(str(error).split())
                notes.append(f"trial {record.number} is not deployed; --resume tries again: {text}")
                continue
            if reason:
                kept_out[record.number] = reason
                logger.warning("trial %d is kept out of the front: %s", record.number, reason)
    if place.is_dir():
        front = find_front(study.records.values(), objectives, kept_out)
        members = {*kept_out, *(record.number for record in front)}
        for path in list(place.iterdir()):
            # Left by an earlier answer of this study, if a better network has been found since.
            if path.name.isdigit() and int(path.name) not in members:
                shutil.rmtree(path)
        content = {str(number): reason for number, reason in kept_out.items()}
        write_atomically(folder / KEPT_OUT_FILE, json.dumps(content, indent=1) + "\n")
    return kept_out, notes


def _deploy(
    study: PipelineStudy, record: TrialRecord, folder: Path, context: StageContext, device: str
) -> str:
    """Write the files of one network; return why it is kept out, or "" if it is not."""
    results = {
        "trial": record.number,
        **{str(name): record.metrics[name] for name in study.config.objectives},
        "settings": dict(record.settings),
    }
    place = folder / DEPLOY_FOLDER / str(record.number)
    stages = folder / STAGES_FOLDER
    ended_with = find_network_folder(stages, [*record.stages.values(), record.network])
    try:
        deployed = deploy_network(
            ended_with or stages / record.network,
            place,
            study.config.pipeline,
            context,
            device=device,
            results=results,
        )
    except HostError:
        raise  # the connection may come back
    except (ExportError, EngineError) as error:
        return f"it cannot be exported: {' '.join(str(error).split())}"
    return "" if deployed.passes else deployed.explain()


def read_kept_out(folder: Path) -> dict[int, str]:
    """Read why networks are kept out of a run's front, by trial number."""
    path = folder / KEPT_OUT_FILE
    if not path.is_file():
        return {}
    return {int(number): reason for number, reason in json.loads(path.read_text()).items()}


def write_pictures_and_scores(
    study: PipelineStudy, folder: Path, context: StageContext, *, test: bool
) -> list[str]:
    """Write pictures/ and test.csv; return notes for the reader, and an error if it failed."""
    try:
        return write_predictions(folder, study.config.pipeline.data, context, test=test)
    except FAULTS as error:
        return [f"pictures and test scores could not be written: {error}"]


def collect_warnings(
    study: PipelineStudy, baselines: list[Baseline], folder: Path, kept_out: dict[int, str]
) -> list[str]:
    """Collect the warnings of the stages of the uncompressed networks and of the front."""
    stages = dict.fromkeys(name for baseline in baselines for name in baseline.artefacts)
    for record in find_front(study.records.values(), study.config.objectives, kept_out):
        stages |= dict.fromkeys(record.stages.values())
    texts = (text for name in stages for text in _read_result(folder, name).get("warnings", ()))
    return list(dict.fromkeys(texts))


def collect_findings(baselines: Sequence[Baseline], folder: Path) -> dict[str, str]:
    """Collect what the stages of the uncompressed networks say of them, by subject."""
    texts: dict[str, list[str]] = {}
    for baseline in baselines:
        for name in baseline.artefacts:
            for subject, text in _read_result(folder, name).get("findings", {}).items():
                texts.setdefault(subject, []).append(f"{baseline.name}: {text}")
    return {subject: "; ".join(entries) for subject, entries in texts.items()}


def _read_result(folder: Path, stage: str) -> dict[str, Any]:
    path = folder / STAGES_FOLDER / stage / RESULT_FILE
    return json.loads(path.read_text())["result"] if path.is_file() else {}


def add_findings(folder: Path, findings: dict[str, str], warnings: list[str]) -> None:
    """Write findings into metadata.json, and warnings after those about the data set.

    Those of an earlier answer go, because what they say may have changed since.
    """
    path = folder / METADATA_FILE
    content = json.loads(path.read_text())
    content |= findings
    content["warnings"] = list(dict.fromkeys([*content["dataset"]["warnings"], *warnings]))
    write_atomically(path, json.dumps(content, indent=1) + "\n")
