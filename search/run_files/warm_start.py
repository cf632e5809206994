"""Reads the finished pipelines of earlier runs for --warm-start."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd

from search.config import CONFIG_FILE, StudyConfig, load_config
from search.pipelines.records import KnownPipeline
from search.run_files.comparable_latency import judges_latency
from search.run_files.results import TRIALS_FILE
from trainables.chain import build_chain, flatten_chain
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import PipelineConfig

# Settings that may differ between two runs whose objectives are still comparable.
NO_DIFFERENCE = frozenset(
    {
        "seed",
        "teacher_logits",
        "data.root",  # the files themselves are compared
        "teacher.backbone_weights",
        "student.backbone_weights",
        "teacher.weights",
        "student.weights",
        "latency.confidence",
        "latency.relative_margin",
        "latency.max_seconds",
    }
)


def read_known(config: StudyConfig) -> list[KnownPipeline]:
    """Read the finished pipelines of the runs that --warm-start names.

    Pipelines outside the study's space are left out, because its sampler could not choose them.

    Args:
        config: Configuration of the new study, with its paths settled.

    Raises:
        ValueError: A folder is not a run, its objectives are not comparable, or none of its
            pipelines is in the space; the message names the folder and the difference.
    """
    return [pipeline for run_dir in config.warm_start for pipeline in _read_run(run_dir, config)]


def _read_run(run_dir: Path, config: StudyConfig) -> list[KnownPipeline]:
    earlier = load_config(run_dir / CONFIG_FILE)
    differences = list(_find_differences(earlier, config))
    if differences:
        raise ValueError(
            f"warm_start: the objectives of {run_dir} are not comparable: {'; '.join(differences)}"
        )
    path = run_dir / TRIALS_FILE
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        rows = table[table["state"] == "complete"].to_dict("records")
    except OSError as error:
        raise ValueError(f"warm_start: {path} cannot be read: {error.strerror}") from None
    except (KeyError, ValueError) as error:
        raise ValueError(f"warm_start: {path} is not a table of trials: {error!r}") from None
    # A run measures more than its objectives; what it did not measure nobody can learn from it.
    unmeasured = [n for n in config.objectives if any(row.get(n, "") == "" for row in rows)]
    if unmeasured:
        raise ValueError(
            f"warm_start: {run_dir} did not measure the objective {unmeasured[0]}; leave it out of "
            "--objectives, or this run out of --warm-start"
        )
    try:
        found = [_read_row(run_dir, row, config) for row in rows]
    except (KeyError, ValueError) as error:
        raise ValueError(f"warm_start: {path} is not a table of trials: {error!r}") from None
    inside = [pipeline for pipeline in found if config.space.contains(pipeline.settings)]
    if not inside:
        raise ValueError(
            f"warm_start: {run_dir} has {len(found)} finished pipelines, none of them inside the "
            "space of this study"
        )
    return inside


def _read_row(run_dir: Path, row: Mapping[Any, str], config: StudyConfig) -> KnownPipeline:
    prefix = "config/"
    chosen = {
        name.removeprefix(prefix): value
        for name, value in row.items()
        if name.startswith(prefix) and value != ""
    }
    settings = flatten_chain(build_chain(config.pipeline.chain, chosen))
    known = [*config.objectives, *(name for name in config.limits if row.get(name, "") != "")]
    metrics = {name: float(row[name]) for name in known}
    return KnownPipeline(str(run_dir), int(row["trial"]), settings, metrics)


def _find_differences(there: StudyConfig, here: StudyConfig) -> Iterator[str]:
    if there.pipeline.data.name == here.pipeline.data.name and not _is_same_data(
        there.pipeline, here.pipeline
    ):
        roots = there.pipeline.data.root, here.pipeline.data.root
        yield f"pipeline.data.root: the files in {roots[0]} there and in {roots[1]} here differ"
    for role in ("teacher", "student"):
        networks = [getattr(config.pipeline, role) for config in (there, here)]
        for field in ("weights", "backbone_weights"):
            paths = [getattr(network, field) for network in networks]
            if paths[0] != paths[1] and not _is_same_file(networks[0], networks[1], field):
                yield f"pipeline.{role}.{field}: {paths[0]} there, {paths[1]} here"
    flat_there, flat_here = (dict(_flatten(asdict(c.pipeline))) for c in (there, here))
    for name, value in flat_here.items():
        is_latency = name.startswith("latency.")
        if value != flat_there.get(name) and (not is_latency or judges_latency(here)):
            yield f"pipeline.{name}: {flat_there.get(name)} there, {value} here"


def _flatten(values: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        name = f"{place}{key}"
        if name in NO_DIFFERENCE:
            continue
        if isinstance(value, dict):
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value


def _is_same_data(there: PipelineConfig, here: PipelineConfig) -> bool:
    """Whether both roots contain the same files; False if one of them is missing."""
    if there.data.root == here.data.root:
        return True
    try:
        # Both are opened with the same size and number of samples, so that only the files differ.
        moved = replace(here.data, root=there.data.root)
        return all(
            moved.open(split).fingerprint == here.data.open(split).fingerprint
            for split in ("train", "val")
        )
    except ValueError:
        return False


def _is_same_file(there: NetworkConfig, here: NetworkConfig, field: str) -> bool:
    """Whether both networks' files have the same content, whatever their paths."""
    try:
        return bool(there.content()[field] == here.content()[field])
    except ValueError:
        return False
