"""Checks that a study's latencies compare with those that an earlier session or run measured."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from models.engines import resolve_device
from search.config import StudyConfig
from search.run_files.results import METADATA_FILE


def judges_latency(config: StudyConfig) -> bool:
    """Whether a study judges networks by their latency: as an objective or against a limit."""
    return "latency_ms" in config.objectives or config.max_latency_ms is not None


def check_latency(
    run_dir: Path, config: StudyConfig, device: str, machines: Sequence[Mapping[str, Any]]
) -> None:
    """Check that the latencies in a run's folder were measured on hardware that the study has.

    Args:
        run_dir: Folder of an earlier run, or of the study itself.
        config: Configuration of the study.
        device: Torch device of its trials.
        machines: Hardware of each machine of the trials, from `describe_hardware`.

    Raises:
        ValueError: The hardware differs; the message names the run and the machines.
    """
    if not judges_latency(config):
        return
    latency = config.pipeline.latency
    device = resolve_device(latency.engine, device, latency.host)
    name = "cpu" if device == "cpu" else "gpu"
    path = run_dir / METADATA_FILE
    try:
        earlier = json.loads(path.read_text())
        there = earlier["latency"]["device"], earlier["hardware"].get(name)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"{path} does not state the run's hardware: {error!r}") from None
    here = [machine.get(name) for machine in machines]
    if latency.host is not None:  # the latencies are those of the host, whatever trains
        there, here = (there[0], None), [None]
    if there not in [(device, model) for model in here]:
        models = ", ".join(str(model) for model in dict.fromkeys(here))
        raise ValueError(
            f"the latencies of {run_dir} are not comparable: measured on {there[0]} ({there[1]}) "
            f"there, on {device} ({models}) here; run the study on the same hardware"
        )
