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
    """Return e.g. "onnxruntime, cpu, float32, 1 thread, batch 1, 360 × 480, BatchNorm folded".

    For latency measured on another machine over ssh, its host stands after the engine.

    It returns "" if the metadata do not state it.
    """
    latency = run.metadata.get("latency") or {}
    threads = latency.get("num_threads")
    parts = [str(latency.get(name) or "") for name in ("engine", "host", "device", "dtype")]
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


def describe_time(run: Run) -> str:
    """Return e.g. "1:02:10 of at most 1:30:00, 2.1 GPU-hours, cost 4.20, sharing saved 3.3".

    "" if the metadata do not say.
    """
    time = run.metadata.get("time") or {}
    if "worked_seconds" not in time:
        return ""
    text = _duration(time["worked_seconds"])
    if time.get("limit_seconds"):
        text += f" of at most {_duration(time['limit_seconds'])}"
    if time.get("estimated_seconds"):
        text += f" (estimated {_duration(time['estimated_seconds'])})"
    parts = [text]
    if "unit" in time:
        parts.append(f"{time['spent_hours']:.3g} {time['unit']}")
    if time.get("cost") is not None:
        parts.append(f"cost {time['cost']:.2f}")
    if time.get("saved_hours"):
        parts.append(f"sharing saved {time['saved_hours']:.3g}")
    return ", ".join(parts)


def describe_facts(run: Run) -> dict[str, str]:
    """Return by name all facts that a reader needs to repeat the run."""
    facts = {
        "folder": str(run.folder),
        "created": str(run.metadata.get("created_at", "")),
        "segfront": str(run.metadata.get("segfront_version", "")),
        "data": describe_data(run),
        "latency": describe_latency(run),
        "time": describe_time(run),
        "sensitivity": str(run.metadata.get("sensitivity", "")),
    }
    for key in ("hardware", "versions", "git"):
        facts |= flatten_facts(run.metadata.get(key) or {}, key if key == "git" else "")
    return {name: text for name, text in facts.items() if text}


def _duration(seconds: float) -> str:
    """Return hours, minutes and seconds, such as 1:02:10."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _resolution(source: dict[str, Any]) -> str:
    size = source.get("resolution")
    return " × ".join(str(side) for side in size) if isinstance(size, list) else ""
