"""A network's files for one engine, with their accuracy and latency there."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from models.checkpoint import load_checkpoint, read_metadata
from models.deployment.bundle import MODEL_FILE, BundleContent, describe_bundle
from models.engines import ENGINES, EngineSettings, FileEngine, resolve_engine
from models.engines.batchnorm_folding import fold_batchnorms
from models.export import export_onnx
from models.network import SegmentationNetwork
from models.normalization import Normalization, Normalize
from models.quantization import QUANTIZERS
from models.quantization.accuracy_aware import Quantized, quantize_accurately
from models.quantization.sensitivity import find_nodes, rank_layers
from trainables.artifacts.store import Artifact
from trainables.context import Progress, StageContext, within_threads
from trainables.data import SegmentationDataset
from trainables.data.normalization import normalization_of
from trainables.data.palette import name_colour
from trainables.deployment import MAX_DIFFERENCE, choose_engine
from trainables.learning.file_evaluation import (
    evaluate_predictions,
    evaluate_session,
    resize_image,
    run_in_torch,
)
from trainables.pipeline_config import LatencyConfig, PipelineConfig
from trainables.stages.computation import Computation
from trainables.stages.distilled import DistilledStage
from trainables.stages.reference import ReferenceStage
from trainables.stages.rounded_training import train_with_rounding
from trainables.stages.stage import NetworkStage, has_training, iterate_origins
from trainables.stages.teaching import Teaching
from trainables.stages.timing import describe_measurement, measure_alone


class ParityError(RuntimeError):
    """A float file is not as accurate as its network."""


class DeployedFile(Computation):
    """Writes a network as the files of one engine and measures them; its artefact is a bundle.

    Args:
        network: Stage of the network.
        config: Configuration of the study.
        device: Device of the latency measurement; its engine is part of the key.
        method: Method of the quantisation to int8, "ptq" or "qat"; None: float32.
        reference: Reference network of the latency measurement.

    Raises:
        ValueError: The engine of the latency cannot measure files.
    """

    name = "quantised"
    version = 3  # tiny weights no longer slow the network

    def __init__(
        self,
        network: NetworkStage,
        config: PipelineConfig,
        device: str,
        *,
        method: str | None,
        reference: ReferenceStage | None,
    ) -> None:
        self.network = network
        self.parents: dict[str, Computation] = {"network": network}
        if reference is not None:
            self.parents["reference"] = reference
        self.reference = reference
        self.distilled = _find_distillation(network) if method == "qat" else None
        if self.distilled is not None:
            self.parents["teacher"] = self.distilled.parents["teacher"]
        check_engine(config.latency, device)
        self.config = config
        self.device = device
        self.method = method
        self.engine, self.engine_settings = choose_engine(config.latency, device)

    def content(self) -> dict[str, Any]:
        """Return precision, data, engine and settings of the latency measurement."""
        data = self.config.data
        content: dict[str, Any] = {
            "method": self.method,
            "latency": describe_measurement(self.config.latency, self.device),
            "val": data.open("val").fingerprint,
        }
        if self.method is not None:
            content |= {
                "int8": asdict(self.config.int8),
                "train": data.open("train").fingerprint,
                "seed": self.config.seed,
            }
        if self.method == "qat":
            content["training"] = asdict(self.config.distil)
            if not has_training(self.network):
                content["augmentation"] = asdict(data.augmentation)
        return content

    @within_threads
    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Write the files, quantise, evaluate in the engine, and time on an idle device."""
        started = time.monotonic()
        checkpoint = parents["network"].checkpoint
        model, metadata = load_checkpoint(checkpoint), read_metadata(checkpoint)
        dataset = self.config.data.open_cached("val", context.cache_dir)
        size = self.config.latency.resolution or dataset.common_size
        writer = _Writer(self, model, normalization_of(model), dataset, size, context, folder)
        if self.distilled is not None:
            writer.teaching = self.distilled.teaching(parents["teacher"].checkpoint)
        written = writer.write_float() if self.method is None else writer.write_int8()
        matrix = writer.evaluate(folder / written.files[0])
        if self.method is None:
            writer.check_parity(matrix.miou, float(metadata["miou"]))
        stage = self.reference
        reference = None if stage is None else stage.find(parents["reference"])
        latency = measure_alone(
            folder / written.files[0], size, self.config.latency, self.device, context, reference
        )
        context.report(Progress(self.name, 1, 1, miou=matrix.miou))
        precision = "float32" if self.method is None else f"int8 ({self.method})"
        content = BundleContent(
            classes=tuple(dataset.classes),
            colors=[name_colour(colour) for colour in dataset.colours],
            normalization=writer.normalization,
            value_range=self.config.data.find_value_range(),
            miou=matrix.miou,
            latency_ms=latency["median_ms"],
            made={
                "stage": parents["network"].folder.name,
                "precision": precision,
                "kept_float": written.kept_float,
            },
        )
        engine = self.engine.describe(self.engine_settings) | {"precision": precision}
        describe_bundle(folder, content, written.files, (1, 3, *size), engine)
        return {
            **latency,
            "miou": matrix.miou,
            "iou": matrix.name_iou(dataset.classes),
            "miou_before": float(metadata["miou"]),
            "precision": precision,
            "kept_float": written.kept_float,
            "seconds": time.monotonic() - started,
        }


def check_engine(config: LatencyConfig, device: str) -> None:
    """Check that latency is measured in an engine that runs the files, one image at a time.

    Args:
        config: Settings of the latency measurement.
        device: Device of the measurement.

    Raises:
        ValueError: It is not; the message names the remedy.
    """
    name = resolve_engine(config.engine, device, config.host)
    if not ENGINES[name].reads_files:
        with_files = ", ".join(key for key, engine in ENGINES.items() if engine.reads_files)
        raise ValueError(
            f"stage quantised measures files, but {name}, the latency's engine on {device}, runs "
            f"none: set --pipeline.latency.engine to one of {with_files}, or leave out quantised"
        )
    if config.batch_size > 1:
        raise ValueError(
            "stage quantised measures files that take 1 image at a time: set "
            f"--pipeline.latency.batch-size 1, got {config.batch_size}"
        )


def _find_distillation(network: NetworkStage) -> DistilledStage | None:
    """Return the last distillation of a network's pipeline that has a teacher."""
    found = (stage for stage in iterate_origins(network) if isinstance(stage, DistilledStage))
    return next((stage for stage in found if stage.has_teacher), None)


class _Writer:
    """Writes the files of one network into a folder.

    Args:
        owner: Computation with engine, method and configuration.
        model: Network in eval mode, which is changed.
        normalization: Normalisation of its images.
        dataset: Validation split.
        size: Height and width of the file's input.
        context: Machine and folders.
        folder: Folder for the files.

    Attributes:
        teaching: Distillation in the training with rounding; None: the float network teaches.
    """

    def __init__(
        self,
        owner: DeployedFile,
        model: SegmentationNetwork,
        normalization: Normalization,
        dataset: SegmentationDataset,
        size: tuple[int, int],
        context: StageContext,
        folder: Path,
    ) -> None:
        self.engine: FileEngine = owner.engine
        self.settings: EngineSettings = owner.engine_settings
        self.config, self.method = owner.config, owner.method
        self.model, self.normalization, self.dataset = model, normalization, dataset
        self.size, self.context, self.folder = size, context, folder
        self.teaching: Teaching | None = None

    def export(self, path: Path) -> None:
        export_onnx(
            self.model, path, image_size=self.size, normalization=self.normalization,
            fold_batchnorm=False,
        )  # fmt: skip

    def fold(self) -> None:
        fold_batchnorms(self.model, torch.randn(1, 3, *self.size))

    def write_float(self) -> Quantized:
        self.fold()
        self.export(self.folder / MODEL_FILE)
        shape = (1, 3, *self.size)
        files = self.engine.write_files(self.folder / MODEL_FILE, shape, self.settings)
        return Quantized([*files, MODEL_FILE], 0.0, [])

    def write_int8(self) -> Quantized:
        config = self.config.int8
        self.fold()
        images = self.read_images(config.num_images)
        with TemporaryDirectory() as scratch:
            path = Path(scratch) / MODEL_FILE
            self.export(path)
            float_accuracy = self.evaluate(path).miou
            if self.method == "qat":
                train_with_rounding(
                    self.model, self.teaching, self.config, self.folder, self.context
                )
                self.export(path)
            normalize = Normalize(self.normalization)
            few = [normalize(torch.from_numpy(image)) for image in images[: config.num_ranking]]
            ranking = rank_layers(self.model, few)
            written = quantize_accurately(
                QUANTIZERS[self.engine.name],
                path,
                self.folder,
                images,
                ranking=[name for name, _ in ranking],
                nodes=find_nodes(self.model, path.read_bytes()),
                evaluate=lambda file: self.evaluate(file).miou,
                float_accuracy=float_accuracy,
                max_drop=config.max_drop,
            )
        if written.files[0] != MODEL_FILE:
            return written
        own = self.engine.write_files(self.folder / MODEL_FILE, (1, 3, *self.size), self.settings)
        return written._replace(files=[*own, MODEL_FILE])

    def read_images(self, number: int) -> list[NDArray[Any]]:
        """Return evenly spread training images in the form of the file's input."""
        training = self.config.data.open_cached("train", self.context.cache_dir)
        places = np.linspace(0, len(training) - 1, min(number, len(training))).round().astype(int)
        images = (training[int(place)].image.numpy() for place in places)
        return [np.ascontiguousarray(resize_image(image, self.size)[None]) for image in images]

    def evaluate(self, file: Path) -> Any:
        session = self.engine.load(file, (1, 3, *self.size), self.settings)
        return evaluate_session(session, self.dataset, self.size, self.context.count)

    def check_parity(self, found: float, expected: float) -> None:
        if abs(found - expected) <= MAX_DIFFERENCE:
            return
        # The stage may have evaluated in bfloat16 or at other sizes, so evaluate again in the same
        # way.
        predict = run_in_torch(self.model, self.normalization)
        expected = evaluate_predictions(predict, self.dataset, self.size).miou
        if not abs(found - expected) <= MAX_DIFFERENCE:
            raise ParityError(
                f"the exported file has {100 * found:.2f} % mIoU in {self.engine.name}, but the "
                f"network has {100 * expected:.2f} % in PyTorch; at most {100 * MAX_DIFFERENCE:g} "
                "points of difference are allowed"
            )
