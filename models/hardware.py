"""Describes the hardware, for records of measurements and for the choice of dtype."""

from __future__ import annotations

from typing import Any

import torch

from models.machine import (
    ask_nvidia_smi,
    describe_machine,
    read_cpu_clocks,
    read_cpu_information,
)

_FAST_BFLOAT16_ON_CPU = frozenset({"avx512_bf16", "amx_bf16", "bf16", "sve_bf16", "arm_bf16"})


def bfloat16_is_fast(device: torch.device | str) -> bool:
    """Return whether the device computes in bfloat16 natively rather than by emulation.

    An emulating CPU (AVX2 only) is more than ten times slower in bfloat16 than in float32.

    Args:
        device: Device to check. CUDA devices are fast from compute capability 8.0 on, CPUs with
            AVX512-BF16, AMX-BF16 or ARM's BF16. Any other device is assumed to be slow.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.is_available() and torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return not _FAST_BFLOAT16_ON_CPU.isdisjoint(_read_cpu_features())
    return False


def describe_hardware(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Describe the machine and, for a CUDA device, the GPU; the result is JSON-serialisable.

    Args:
        device: The device that a measurement ran on.

    Returns:
        `cpu`, `cpu_capability`, `num_cpus` (that this process may use), `memory_bytes`, `system`,
        `torch`; for CUDA also `gpu`, `gpu_memory_bytes`, `gpu_capability`, `gpu_driver`, `cuda`.
    """
    device = torch.device(device)
    description: dict[str, Any] = {
        **describe_machine(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        description |= {
            "gpu": properties.name,
            "gpu_memory_bytes": properties.total_memory,
            "gpu_capability": f"{properties.major}.{properties.minor}",
            "gpu_driver": _read_driver_version(),
            "cuda": torch.version.cuda,
        }
    return description


def read_clocks(device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read the current clock rates and their limits; the result is JSON-serialisable.

    Args:
        device: The device that a measurement ran on.

    Returns:
        `cpu_mhz` (mean over the CPUs), `cpu_max_mhz` and `cpu_governor`, None if unknown; for CUDA
        also `gpu_sm_mhz`, `gpu_sm_max_mhz`, `gpu_memory_mhz` and `gpu_memory_max_mhz`, likewise.
    """
    device = torch.device(device)
    clocks = read_cpu_clocks()
    if device.type == "cuda":
        names = ("sm", "max.sm", "mem", "max.mem")
        keys = ("gpu_sm_mhz", "gpu_sm_max_mhz", "gpu_memory_mhz", "gpu_memory_max_mhz")
        card = f"--id=GPU-{torch.cuda.get_device_properties(device).uuid}"
        answer = ask_nvidia_smi([f"clocks.{name}" for name in names], card)
        values = answer.split(",") if answer else [""] * len(keys)
        clocks |= {key: _parse_number(value) for key, value in zip(keys, values, strict=True)}
    return clocks


def _read_cpu_features() -> set[str]:
    """Read the instruction sets, from PyTorch if it reports them, else from Linux."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name, has_it in torch.cpu.get_capabilities().items() if has_it is True}
    information = read_cpu_information()
    return set((information.get("flags") or information.get("Features") or "").split())


def _read_driver_version() -> str | None:
    return ask_nvidia_smi(["driver_version"]) or None


def _parse_number(text: str) -> float | None:
    """Read a number; None for other output of nvidia-smi, such as [N/A]."""
    try:
        return float(text)
    except ValueError:
        return None
