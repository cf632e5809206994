"""Settings and errors of inference engines; imports no PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

DTYPES = ("float32", "bfloat16", "float16")


class EngineError(RuntimeError):
    """The engine is missing, does not support the device, or cannot run the network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EngineSettings:
    """Settings of an inference engine.

    Attributes:
        device: Name of a torch device, such as "cpu" or "cuda".
        dtype: Floating-point dtype of the computation, one of `DTYPES`; a quantised file also uses
            its own.
        num_threads: CPU threads within an operation, at least 1.
        channels_last: Whether to use the channels_last memory format, if the engine has a choice.
        fold_batchnorm: Whether to fold BatchNorms into the convolutions before them.
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
        """Device type, without the device's number."""
        return self.device.partition(":")[0]
