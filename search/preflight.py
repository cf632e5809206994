"""Checks a study and settles its paths before anything is trained."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from search.config import StudyConfig
from search.run_files.remote_run import connect
from trainables.artifacts.remote_folder import is_uri
from trainables.chain import list_choosers
from trainables.context import detect_device
from trainables.data.download import download_camvid
from trainables.network_config import NetworkConfig
from trainables.pipeline import DatasetSummary, check_data
from trainables.settings import restore
from trainables.stages import STAGES

CAMVID_FOLDER = Path("data/CamVid")


def fetch_data(config: StudyConfig) -> StudyConfig:
    """Download CamVid if its train or val is missing, and point the study to it.

    Raises:
        ValueError: The study uses another data set, or the download failed.
    """
    data = config.pipeline.data
    if data.name != "camvid":
        raise ValueError(f"--download fetches only camvid; this study's data set is {data.name}")
    root = data.resolve_root() or CAMVID_FOLDER
    data = replace(data, root=root)
    if not (data.has_split("train") and data.has_split("val")):
        download_camvid(root)
    return replace(config, pipeline=replace(config.pipeline, data=data))


def settle_paths(config: StudyConfig) -> StudyConfig:
    """Make every path absolute, so that a run can be resumed from any folder.

    Raises:
        ValueError: A file of weights is missing.
    """
    pipeline = config.pipeline
    pipeline = replace(
        pipeline,
        data=pipeline.data.settle(),
        teacher=pipeline.teacher.settle(),
        student=pipeline.student.settle(),
        students={name: network.settle() for name, network in pipeline.students.items()},
    )
    store = config.store
    if store is not None and not is_uri(store):
        store = str(Path(store).expanduser().absolute())
    return replace(
        config,
        pipeline=pipeline,
        store=store,
        cache_dir=config.cache_dir.expanduser().absolute(),
        warm_start=tuple(folder.expanduser().absolute() for folder in config.warm_start),
    )


def check_store(store: str | None, *, is_remote: bool) -> None:
    """Check that the store that studies share can be written; create its folder if missing.

    Args:
        store: Path or URI of the store; None if the run has its own.
        is_remote: Whether the run is in object storage.

    Raises:
        ValueError: The store cannot be written.
    """
    if store is None:
        return
    if is_uri(store):
        connect(store)
        return
    if is_remote:
        raise ValueError(f"store must be a URI because the run is in storage; got {store}")
    try:
        Path(store).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=store):
            pass
    except OSError as error:
        raise ValueError(f"store must be a writable folder; {store}: {error.strerror}") from None


def check_study(config: StudyConfig, device: str | None = None) -> DatasetSummary:
    """Read every image once and build every network; weights are loaded only where they are given.

    Args:
        config: Study to check; its paths are settled.
        device: Torch device of its trainings. Default: that of this machine.

    Raises:
        ValueError: A file or setting cannot be used; the message names it.
    """
    pipeline = config.pipeline
    summary = check_data(pipeline, config.cache_dir)
    for role, network in name_networks(config):
        network.settle()
        try:
            if network.weights is not None:
                network.build(summary.num_classes)
                continue
            with torch.device("meta"):
                network.without_weights().build(summary.num_classes)
        except (ValueError, KeyError) as error:
            raise ValueError(f"pipeline.{role}: {error}") from None
    check_choices(config, device)
    return summary


def check_choices(config: StudyConfig, device: str | None = None) -> None:
    """Check that every stage can work with the study's data and engine, whatever is chosen.

    Args:
        config: Study to check.
        device: Torch device of its trainings. Default: that of this machine.

    Raises:
        ValueError: A stage cannot; the message names the reason and the remedy.
    """
    device = device or ("cpu" if config.gpus_per_trial == 0 else detect_device())
    for chooser in list_choosers(config.pipeline.chain):
        stage, _, setting = chooser.partition(".")
        for value in config.space.get_choices(chooser):
            settings = restore(STAGES[stage].Settings, {setting: value})
            STAGES[stage].check(settings, config.pipeline, device)


def name_networks(config: StudyConfig) -> list[tuple[str, NetworkConfig]]:
    """Return the networks of a study, each with its place in the configuration."""
    pipeline = config.pipeline
    students = [(f"students.{name}", network) for name, network in pipeline.students.items()]
    own = students or [("student", pipeline.student)]
    return own if pipeline.self_teaching else [("teacher", pipeline.teacher), *own]
