"""How an engine is to run a network, and why it cannot; without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = ("float32", "bfloat16", "float16")


class EngineError(RuntimeError):
    """The engine is missing, does not suit the device, or does not take the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """How an engine is to run a network.

    Attributes:
        device: A torch device's name, such as "cpu" or "cuda".
        dtype: Numbers of the computation, one of `DTYPES`; a quantised file has its own beside it.
        num_threads: CPU threads within an operation, at least 1.
        channels_last: Memory format, where the engine leaves the choice.
        fold_batchnorm: Fold BatchNorms into the convolutions before them.
    """

    device: str = "cpu"
    dtype: str = "float32"
    num_threads: int = 1
    channels_last: bool = True
    fold_batchnorm: bool = True

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}; got {self.dtype!r}")
        if self.num_threads < 1:
            raise ValueError(f"num_threads must be at least 1, got {self.num_threads!r}")

    @property
    def device_type(self) -> str:
        """The device without its number."""
        return self.device.partition(":")[0]
