"""Describes a machine and its clocks without PyTorch, for measurements on any device."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def describe_machine() -> dict[str, Any]:
    """Describe the machine; the result is JSON-serialisable.

    Returns:
        `cpu`, `num_cpus` (that this process may use), `memory_bytes` and `system`.
    """
    can_tell = hasattr(os, "sched_getaffinity")
    return {
        "cpu": read_cpu_name(),
        "num_cpus": len(os.sched_getaffinity(0)) if can_tell else os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.platform(),
    }


def read_cpu_clocks() -> dict[str, Any]:
    """Read the current clock rates of the CPUs and their limits; JSON-serialisable.

    Returns:
        `cpu_mhz` (mean over the CPUs), `cpu_max_mhz` and `cpu_governor`, None if unknown.
    """
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    speeds = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    folder = Path("/sys/devices/system/cpu/cpu0/cpufreq")
    bound, governor = folder / "cpuinfo_max_freq", folder / "scaling_governor"
    return {
        "cpu_mhz": sum(speeds) / len(speeds) if speeds else None,
        "cpu_max_mhz": int(bound.read_text()) / 1000 if bound.is_file() else None,
        "cpu_governor": governor.read_text().strip() if governor.is_file() else None,
    }


def read_cpu_name() -> str:
    """Return the name of the CPU, or of its architecture if the system does not report one."""
    return read_cpu_information().get("model name") or platform.processor() or platform.machine()


def read_cpu_information() -> dict[str, str]:
    """Read Linux's information on its last CPU; empty on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}


def ask_nvidia_smi(names: Sequence[str], *flags: str) -> str:
    """Return the first line of nvidia-smi's answer, comma-separated; "" if there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ""
    command = [program, f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits", *flags]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)  # noqa: S603
    return answer.stdout.partition("\n")[0].strip() if answer.returncode == 0 else ""
