"""ONNX Runtime, on a CPU or through CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import FileEngine, Session, first_line
from models.engines.settings import EngineError, EngineSettings

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

IMAGE_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}


class OnnxRuntimeSession(Session):
    """A file in ONNX Runtime.

    Args:
        session: An `onnxruntime.InferenceSession` with one input.
    """

    def __init__(self, session: Any) -> None:
        self.session = session
        self.input = session.get_inputs()[0].name
        self.image_dtype = IMAGE_DTYPES[session.get_inputs()[0].type]
        self.outputs = [session.get_outputs()[0].name]

    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """See `Session.run`."""
        return np.asarray(self.session.run(self.outputs, {self.input: images})[0])


class OnnxRuntime(FileEngine):
    """Runs ONNX files with all of ONNX Runtime's graph optimisations."""

    name = "onnxruntime"

    def check(self, settings: EngineSettings) -> None:
        """See `Engine.check`."""
        try:
            import onnxruntime
        except ImportError as error:
            raise EngineError(
                f"onnxruntime is not installed: pip install onnxruntime ({error})"
            ) from error
        if settings.device_type not in PROVIDERS:
            raise EngineError(f"onnxruntime runs on cpu or cuda, not on {settings.device}")
        provider = PROVIDERS[settings.device_type]
        if provider not in onnxruntime.get_available_providers():
            raise EngineError(
                f"the installed onnxruntime has no {provider}: "
                "pip uninstall onnxruntime && pip install onnxruntime-gpu, or choose tensorrt"
            )
        if settings.dtype != "float32":
            raise EngineError(
                f"onnxruntime is used with float32 only, got {settings.dtype}: set the latency's "
                "dtype to "
                "float32, or choose openvino, tensorrt or pytorch"
            )

    def describe(self, settings: EngineSettings) -> dict[str, Any]:
        """See `Engine.describe`."""
        import onnxruntime

        return {
            "name": self.name,
            "version": onnxruntime.__version__,
            "provider": PROVIDERS[settings.device_type],
            "precision": settings.dtype,
            "num_threads": settings.num_threads,
            "graph_optimization": "all",
        }

    def load(
        self, file: Path | bytes, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """See `FileEngine.load`."""
        import onnxruntime

        self.check(settings)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = settings.num_threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.log_severity_level = 3
        # Otherwise the threads of one session spin until its next run, which slows the reference
        # network.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        source = file if isinstance(file, bytes) else str(file)
        provider = PROVIDERS[settings.device_type]
        try:
            session = onnxruntime.InferenceSession(source, options, providers=[provider])
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise EngineError(f"onnxruntime cannot load the file: {first_line(error)}") from error
        return OnnxRuntimeSession(session)
