"""Colour an image by class: python predict.py in.png out.png (needs NumPy, Pillow, the engine)."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

HERE = Path(__file__).parent
Run = Callable[[Any], Any]


def read_image(path: str, value_range: list[float] | None) -> Image.Image:
    """Turn an image upright and scale more than 8 bits by the range of the training images."""
    opened = Image.open(path)
    is_deep_grey, is_deep = opened.mode[0] in "IF", ";16" in str(opened.tile)
    image = ImageOps.exif_transpose(opened)
    if is_deep_grey and value_range is not None:
        low, high = value_range
        levels = (np.asarray(image, np.float32) - low) * (255 / (high - low))
        image = Image.fromarray(np.clip(np.rint(levels), 0, 255).astype(np.uint8))
    elif is_deep_grey or is_deep:
        sys.exit(
            f"{path} has more than 8 bits: scale {value_range or 'its values'} to 0..255 first"
        )
    return image.convert("RGB")


def load_onnxruntime(file: Path, shape: list[int]) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda images: session.run(None, {"images": images})[0]


def load_openvino(file: Path, shape: list[int]) -> Run:
    import openvino

    hints = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(file, "CPU", hints)
    return lambda images: compiled([images])[0]


def load_tensorrt(file: Path, shape: list[int]) -> Run:
    import tensorrt as trt
    from cuda.bindings import runtime as cuda

    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(file.read_bytes())
    context, logits = engine.create_execution_context(), np.empty(shape, np.float32)

    def run(images: Any) -> Any:
        (_, source), (_, target) = cuda.cudaMalloc(images.nbytes), cuda.cudaMalloc(logits.nbytes)
        cuda.cudaMemcpy(source, images.ctypes.data, images.nbytes, cuda.cudaMemcpyKind(1))
        context.execute_v2([int(source), int(target)])
        cuda.cudaMemcpy(logits.ctypes.data, target, logits.nbytes, cuda.cudaMemcpyKind(2))
        return logits

    return run


if __name__ == "__main__":
    model = json.loads((HERE / "model.json").read_text())
    load = {"onnxruntime": load_onnxruntime, "openvino": load_openvino, "tensorrt": load_tensorrt}
    run = load[model["engine"]["name"]](HERE / model["file"], model["output"]["shape"])
    image = read_image(sys.argv[1], model["input"].get("range"))
    height, width = model["input"]["shape"][2:]
    pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    batch = np.broadcast_to(pixels.transpose(2, 0, 1), model["input"]["shape"])
    logits = run(np.ascontiguousarray(batch))
    mask = Image.fromarray(logits[0].argmax(axis=0).astype(np.uint8))
    mask.putpalette([value for entry in model["classes"] for value in entry["colour"]])
    mask.resize(image.size, Image.Resampling.NEAREST).save(sys.argv[2])
