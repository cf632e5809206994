"""OpenVINO on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engines.engine import FileEngine, Session, first_line
from models.engines.settings import EngineError, EngineSettings
from models.signal_stack import kept_signal_stack

PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoSession(Session):
    """A file in OpenVINO.

    Args:
        request: An `openvino.InferRequest` with one input.
    """

    def __init__(self, request: Any) -> None:
        self.request = request
        element = request.get_input_tensor(0).get_element_type()
        self.image_dtype = np.dtype(element.to_dtype()).name

    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """See `Session.run`."""
        self.execute(images)
        return np.array(self.request.get_output_tensor(0).data)

    def execute(self, images: NDArray[Any]) -> None:
        """See `Session.execute`."""
        self.request.infer([images], share_inputs=True, share_outputs=True)


class OpenVino(FileEngine):
    """Runs ONNX files and OpenVINO's own files (.xml with .bin), tuned for latency."""

    name = "openvino"

    def check(self, settings: EngineSettings) -> None:
        """See `Engine.check`."""
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            raise EngineError(
                f"openvino is not installed: pip install -e '.[openvino]' ({error})"
            ) from error
        if settings.device_type != "cpu":
            raise EngineError(f"openvino is used on a CPU only, got {settings.device}")
        if settings.dtype not in PRECISIONS:
            raise EngineError(
                f"openvino runs {' or '.join(PRECISIONS)} on a CPU, got {settings.dtype}"
            )

    def describe(self, settings: EngineSettings) -> dict[str, Any]:
        """See `Engine.describe`."""
        import openvino

        return {
            "name": self.name,
            "version": openvino.__version__,
            "provider": "CPU",
            "precision": settings.dtype,
            "num_threads": settings.num_threads,
            # Part of the key of a latency: times with and without copies cannot be compared.
            "graph_optimization": "latency hint, 1 stream, output not copied",
        }

    def load(
        self, file: Path | bytes, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """See `FileEngine.load`."""
        import openvino

        self.check(settings)
        configuration = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            "INFERENCE_NUM_THREADS": str(settings.num_threads),
            # Otherwise OpenVINO uses bfloat16 by itself on a CPU that supports it.
            "INFERENCE_PRECISION_HINT": PRECISIONS[settings.dtype],
        }
        core = openvino.Core()
        try:
            if isinstance(file, bytes):
                model = core.read_model(file, b"")
            else:
                model = core.read_model(str(file))
            model.reshape({0: list(input_shape)})
            with kept_signal_stack():
                compiled = core.compile_model(model, "CPU", configuration)
            request = compiled.create_infer_request()
        except RuntimeError as error:
            raise EngineError(f"openvino cannot load the file: {first_line(error)}") from error
        return OpenVinoSession(request)

    def write_files(
        self, file: Path, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> list[str]:
        """See `FileEngine.write_files`."""
        import openvino

        model = openvino.Core().read_model(str(file))
        path = file.with_suffix(".xml")
        openvino.save_model(model, str(path), compress_to_fp16=False)
        return [path.name, path.with_suffix(".bin").name]
