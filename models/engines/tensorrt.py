"""TensorRT on a CUDA device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.engines.engine import FileEngine, Run, Session
from models.engines.settings import EngineError, EngineSettings

WORKSPACE_BYTES = 4 * 2**30


class TensorRtSession(Session):
    """A TensorRT plan, with input and output buffers allocated by PyTorch.

    Args:
        engine: A `tensorrt.ICudaEngine` with one input and one output.
        input_shape: Shape of the images, (N, 3, H, W).
        device: Name of a CUDA device.
    """

    def __init__(self, engine: Any, input_shape: tuple[int, int, int, int], device: str) -> None:
        import tensorrt

        self.engine = engine  # the context does not keep it alive
        self.context = engine.create_execution_context()
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        is_input = tensorrt.TensorIOMode.INPUT
        (input_name,) = (name for name in names if engine.get_tensor_mode(name) == is_input)
        output_name = next(name for name in names if name != input_name)
        self.context.set_input_shape(input_name, input_shape)
        self.images = self._allocate(input_name, device)
        self.image_dtype = str(self.images.dtype).removeprefix("torch.")
        self.output = self._allocate(output_name, device)
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def _allocate(self, name: str, device: str) -> torch.Tensor:
        import tensorrt

        dtype = np.dtype(tensorrt.nptype(self.engine.get_tensor_dtype(name)))
        shape = tuple(self.context.get_tensor_shape(name))
        tensor = torch.empty(shape, dtype=getattr(torch, dtype.name), device=device)
        self.context.set_tensor_address(name, tensor.data_ptr())
        return tensor

    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """See `Session.run`."""
        self.images.copy_(torch.from_numpy(images))
        torch.cuda.current_stream().synchronize()
        self._execute()
        self.stream.synchronize()
        return self.output.cpu().numpy()

    def make_run(self, images: NDArray[Any]) -> Run:
        """See `Session.make_run`; timed by CUDA events; the images are already on the device."""
        self.images.copy_(torch.from_numpy(images))
        torch.cuda.current_stream().synchronize()

        def run() -> float:
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record(self.stream)
            self._execute()
            end.record(self.stream)
            end.synchronize()
            return float(start.elapsed_time(end))

        return run

    def _execute(self) -> None:
        if not self.context.execute_async_v3(self.stream.cuda_stream):
            raise EngineError("tensorrt could not run the network; its log says why")


class TensorRt(FileEngine):
    """Builds a plan for this machine's GPU from an ONNX file, or loads a plan (.plan)."""

    name = "tensorrt"
    is_typed = True

    def check(self, settings: EngineSettings) -> None:
        """See `Engine.check`."""
        try:
            import tensorrt  # noqa: F401
        except ImportError as error:
            raise EngineError(
                f"tensorrt is not installed: pip install -e '.[tensorrt]' ({error})"
            ) from error
        if settings.device_type != "cuda":
            raise EngineError(
                f"tensorrt runs on cuda, not on {settings.device}: choose onnxruntime there"
            )
        if not torch.cuda.is_available():
            raise EngineError("tensorrt needs a CUDA device, but PyTorch finds none")

    def describe(self, settings: EngineSettings) -> dict[str, Any]:
        """See `Engine.describe`."""
        import tensorrt

        return {
            "name": self.name,
            "version": tensorrt.__version__,
            "provider": "CUDA",
            "precision": settings.dtype,
            "num_threads": settings.num_threads,
            "graph_optimization": "default builder, strongly typed",
        }

    def load(
        self, file: Path | bytes, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> Session:
        """See `FileEngine.load`."""
        import tensorrt

        self.check(settings)
        content = file if isinstance(file, bytes) else file.read_bytes()
        is_plan = isinstance(file, Path) and file.suffix == ".plan"
        plan = content if is_plan else build_plan(content, input_shape)
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.ERROR))
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise EngineError(
                "tensorrt cannot read the plan, which was built for another version or GPU: build "
                "it again"
            )
        return TensorRtSession(engine, input_shape, settings.device)

    def write_files(
        self, file: Path, input_shape: tuple[int, int, int, int], settings: EngineSettings
    ) -> list[str]:
        """See `FileEngine.write_files`; the plan is valid only for this GPU model and version."""
        path = file.with_suffix(".plan")
        path.write_bytes(build_plan(file.read_bytes(), input_shape))
        return [path.name]


def build_plan(content: bytes, input_shape: tuple[int, int, int, int]) -> bytes:
    """Build a plan: TensorRT chooses kernels for this machine's GPU, which takes a minute.

    Args:
        content: Content of an ONNX file.
        input_shape: Shape that the plan is for, (N, 3, H, W), also if the file takes any N.

    Raises:
        EngineError: TensorRT cannot read or build the file.
    """
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    flags = tensorrt.NetworkDefinitionCreationFlag
    # Since version 11 every network is strongly typed, and the flag may be missing.
    typed = getattr(flags, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(content):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(f"tensorrt cannot read the file: {reasons}")
    configuration = builder.create_builder_config()
    configuration.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, input_shape, input_shape, input_shape)
    configuration.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, configuration)
    if plan is None:
        raise EngineError("tensorrt cannot build the network; its log says why")
    return bytes(plan)
