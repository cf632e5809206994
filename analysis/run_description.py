"""Describes a run's data set, latency measurement and machine in words, from its metadata."""

from __future__ import annotations

from typing import Any

from analysis.page import flatten_facts
from analysis.results import Run


def describe_data(run: Run) -> str:
    """Return e.g. "camvid, 11 classes, 360 × 480"; "" if the metadata do not state it."""
    dataset = run.metadata.get("dataset") or {}
    parts = [str(dataset.get("name") or "")]
    if dataset.get("num_classes"):
        parts.append(f"{dataset['num_classes']} classes")
    parts.append(_resolution(dataset))
    return ", ".join(part for part in parts if part)


def describe_latency(run: Run) -> str:
    """Return e.g. "cpu, float32, 1 thread, batch 1, 360 × 480, BatchNorm folded".

    It returns "" if the metadata do not state it.
    """
    latency = run.metadata.get("latency") or {}
    threads = latency.get("num_threads")
    parts = [str(latency.get("device") or ""), str(latency.get("dtype") or "")]
    if threads:
        parts.append(f"{threads} thread{'' if threads == 1 else 's'}")
    if latency.get("batch_size"):
        parts.append(f"batch {latency['batch_size']}")
    parts.append(_resolution(latency))
    if "fold_batchnorm" in latency:
        parts.append(f"BatchNorm {'' if latency['fold_batchnorm'] else 'not '}folded")
    if latency.get("compensate_drift"):
        parts.append("drift compensated")
    return ", ".join(part for part in parts if part)


def describe_facts(run: Run) -> dict[str, str]:
    """Return by name all facts that a reader needs to repeat the run."""
    facts = {
        "folder": str(run.folder),
        "created": str(run.metadata.get("created_at", "")),
        "segfront": str(run.metadata.get("segfront_version", "")),
        "data": describe_data(run),
        "latency": describe_latency(run),
    }
    for key in ("hardware", "versions", "git"):
        facts |= flatten_facts(run.metadata.get(key) or {}, key if key == "git" else "")
    return {name: text for name, text in facts.items() if text}


def _resolution(source: dict[str, Any]) -> str:
    size = source.get("resolution")
    return " × ".join(str(side) for side in size) if isinstance(size, list) else ""
