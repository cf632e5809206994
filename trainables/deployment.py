"""Deploys networks: writes their files and evaluates these in their engine."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from models.checkpoint import load_checkpoint, read_metadata
from models.deployment.bundle import (
    BundleContent,
    copy_bundle,
    is_bundle,
    read_bundle,
    update_bundle,
)
from models.engines import (
    ENGINES,
    EngineError,
    EngineSettings,
    FileEngine,
    Session,
    resolve_engine,
)
from models.engines.onnxruntime import OnnxRuntime
from models.export import export_bundle
from models.normalization import Normalization, Normalize
from trainables.context import StageContext
from trainables.data import SegmentationDataset
from trainables.data.normalization import normalization_of
from trainables.metrics import ConfusionMatrix
from trainables.pipeline_config import LatencyConfig, PipelineConfig
from trainables.process.watchdog import note_progress

MAX_DIFFERENCE = 0.001  # of mIoU in 0..1, which is a tenth of a point

Predict = Callable[[NDArray[Any]], NDArray[Any]]
"""A function that maps images (1, 3, H, W) uint8 to logits (1, num_classes, H, W)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A network's files, and whether they are as accurate as the network.

    Attributes:
        folder: Folder of the files, if they pass.
        engine: Name of the engine that runs them.
        miou: mIoU of the files in that engine on the validation split, in 0..1.
        expected_miou: mIoU of the network in PyTorch; None for quantised files, which are not
            compared.
        passes: Whether both agree within a tenth of a point; quantised files always pass.
    """

    folder: Path
    engine: str
    miou: float
    expected_miou: float | None
    passes: bool

    def explain(self) -> str:
        """Compare the accuracy of the files and of the network in one sentence."""
        expected = self.miou if self.expected_miou is None else self.expected_miou
        return (
            f"the exported file has {100 * self.miou:.2f} % mIoU in {self.engine}, "
            f"{100 * expected:.2f} % in PyTorch; at most {100 * MAX_DIFFERENCE:g} points of "
            "difference "
            "are allowed"
        )


def deploy_network(
    stage_folder: Path,
    folder: Path,
    config: PipelineConfig,
    context: StageContext,
    *,
    results: Mapping[str, Any],
    colors: list[str] | None = None,
) -> Deployed:
    """Write the deployment bundle of a network, after evaluating it on the validation split.

    Args:
        stage_folder: Artefact of the pipeline's last stage: a checkpoint, or quantised files.
        folder: Folder to make, RUN_DIR/deploy/<trial>; made only for a network that passes.
        config: Configuration of the study.
        context: Machine, and the node's data cache.
        results: Results of the network for model.json, including `latency_ms`.
        colors: "#rrggbb" of each class; None: generated colours.

    Raises:
        ExportError: The network cannot be exported.
        EngineError: The engine cannot run the file.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    deployed = _deploy(stage_folder, partial, config, context, results, colors)
    if deployed.passes:  # so that only complete folders of usable networks exist
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
    shutil.rmtree(partial, ignore_errors=True)
    return replace(deployed, folder=folder)


def _deploy(
    stage_folder: Path,
    folder: Path,
    config: PipelineConfig,
    context: StageContext,
    results: Mapping[str, Any],
    colors: list[str] | None,
) -> Deployed:
    engine, settings = choose_engine(config.latency, context.device)
    dataset = config.data.open_cached("val", context.cache_dir)
    if is_bundle(stage_folder):
        description = read_bundle(stage_folder)
        made = {**description["made"], **results}
        copy_bundle(stage_folder, folder, {"made": made})
        miou = float(description["miou"])
        return Deployed(
            folder=folder, engine=engine.name, miou=miou, expected_miou=None, passes=True
        )
    checkpoint = stage_folder / "checkpoint.safetensors"
    metadata = read_metadata(checkpoint)
    model = load_checkpoint(checkpoint)
    image_size = config.latency.resolution or dataset.common_size
    measured_in = resolve_engine(config.latency.engine, context.device, config.latency.host)
    is_measured = engine.name == measured_in
    normalization = normalization_of(model)
    content = BundleContent(
        classes=tuple(dataset.classes),
        colors=colors,
        normalization=normalization,
        latency_ms=results.get("latency_ms") if is_measured else None,
        made={"stage": stage_folder.name, **results},
    )
    export_bundle(model, folder, content, image_size=image_size, engine=engine, settings=settings)
    file = folder / read_bundle(folder)["file"]
    session = engine.load(file, (1, 3, *image_size), settings)
    found = evaluate_session(session, dataset, image_size).miou
    expected = float(metadata["miou"])
    if not abs(found - expected) <= MAX_DIFFERENCE:
        # The stage may have evaluated in bfloat16 or at other sizes, so evaluate again in the same
        # way.
        expected = evaluate_predictions(
            run_in_torch(model, normalization), dataset, image_size
        ).miou
    update_bundle(folder, {"miou": found})
    return Deployed(
        folder=folder,
        engine=engine.name,
        miou=found,
        expected_miou=expected,
        passes=abs(found - expected) <= MAX_DIFFERENCE,
    )


def choose_engine(config: LatencyConfig, device: str) -> tuple[FileEngine, EngineSettings]:
    """Return the engine to write files for: that of the latency, or else ONNX Runtime on the CPU.

    Eager and compiled PyTorch run no files, and the engine of another machine may not be installed
    here. In these cases the networks are written as ONNX.

    Raises:
        EngineError: The engine is missing.
    """
    engine = ENGINES[resolve_engine(config.engine, device, config.host)]
    settings = EngineSettings(
        device=device,
        dtype=config.dtype,
        num_threads=config.num_threads,
        fold_batchnorm=config.fold_batchnorm,
    )
    if isinstance(engine, FileEngine) and _is_here(engine, settings, config.host):
        return engine, settings
    return OnnxRuntime(), EngineSettings(num_threads=config.num_threads)


def _is_here(engine: FileEngine, settings: EngineSettings, host: str | None) -> bool:
    """Whether the engine is installed here; without another host, it must be."""
    try:
        engine.check(settings)
    except EngineError:
        if host is None:
            raise
        return False
    return True


def evaluate_session(
    session: Session, dataset: SegmentationDataset, image_size: tuple[int, int]
) -> ConfusionMatrix:
    """Compare a file's predictions with the labels; see `evaluate_predictions`."""
    return evaluate_predictions(session.run, dataset, image_size)


def evaluate_predictions(
    predict: Predict, dataset: SegmentationDataset, image_size: tuple[int, int]
) -> ConfusionMatrix:
    """Compare predictions with the labels of every image, resizing as a bundle's predict.py does.

    Args:
        predict: Function that computes logits.
        dataset: Images and labels.
        image_size: Height and width that it accepts. Images of other sizes are resized to it, and
            the predictions back.
    """
    matrix = ConfusionMatrix(dataset.num_classes, dataset.ignore_index)
    for index in range(len(dataset)):
        note_progress(f"image {index + 1} of {len(dataset)} of the evaluation in the engine")
        image, target = dataset[index]
        size = (int(image.shape[-2]), int(image.shape[-1]))
        pixels = resize_image(image.numpy(), image_size)
        classes = predict(np.ascontiguousarray(pixels[None]))[0].argmax(axis=0).astype(np.uint8)
        if size != image_size:
            picture = Image.fromarray(classes).resize((size[1], size[0]), Image.Resampling.NEAREST)
            classes = np.array(picture)
        matrix.update(torch.from_numpy(classes), target)
    return matrix


def resize_image(pixels: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resize (3, H, W) uint8 as predict.py does; unchanged if it already has the size."""
    if pixels.shape[-2:] == size:
        return pixels
    picture = Image.fromarray(pixels.transpose(1, 2, 0))
    resized = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(resized).transpose(2, 0, 1)


def run_in_torch(model: nn.Module, normalization: Normalization) -> Predict:
    """Return a function that computes logits in float32 on the CPU, in eager PyTorch."""
    whole = nn.Sequential(Normalize(normalization), model.cpu().float()).eval()

    def predict(images: NDArray[Any]) -> NDArray[Any]:
        with torch.inference_mode():
            logits: NDArray[Any] = whole(torch.from_numpy(images)).numpy()
        return logits

    return predict


def describe_classes(matrix: ConfusionMatrix, classes: tuple[str, ...]) -> dict[str, float | None]:
    """Return the IoU by class; None for a class that never occurs."""
    values = zip(classes, matrix.iou.tolist(), strict=True)
    return {name: None if math.isnan(value) else value for name, value in values}
