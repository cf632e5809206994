"""Deploys networks: writes their files and evaluates these in their engine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

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
    resolve_device,
    resolve_engine,
)
from models.engines.onnxruntime import OnnxRuntime
from models.export import export_bundle
from trainables.context import StageContext
from trainables.data.normalization import normalization_of
from trainables.data.palette import name_colour
from trainables.learning.file_evaluation import (
    evaluate_predictions,
    evaluate_session,
    run_in_torch,
)
from trainables.pipeline_config import LatencyConfig, PipelineConfig

MAX_DIFFERENCE = 0.001  # of mIoU in 0..1, which is a tenth of a point


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
    device: str,
    results: Mapping[str, Any],
) -> Deployed:
    """Write the deployment bundle of a network, after evaluating it on the validation split.

    Args:
        stage_folder: Artefact of the pipeline's last stage: a checkpoint, or quantised files.
        folder: Folder to make, RUN_DIR/deploy/<trial>; made only for a network that passes.
        config: Configuration of the study.
        context: Machine, and the node's data cache.
        device: Torch device of the study's latencies, which this machine may lack.
        results: Results of the network for model.json, including `latency_ms`. The latency becomes
            that of the file if the file is for the engine and device that were measured, and one
            image at a time was measured.

    Raises:
        ExportError: The network cannot be exported.
        EngineError: The engine cannot run the file.
    """
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    deployed = _deploy(stage_folder, partial, config, context, device, results)
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
    device: str,
    results: Mapping[str, Any],
) -> Deployed:
    if is_bundle(stage_folder):
        description = read_bundle(stage_folder)
        made = {**description["made"], **results}
        copy_bundle(stage_folder, folder, {"made": made})
        return Deployed(
            folder=folder,
            engine=description["engine"]["name"],
            miou=float(description["miou"]),
            expected_miou=None,
            passes=True,
        )
    latency = config.latency
    engine, settings = choose_engine(latency, device)
    measured_in = (
        resolve_engine(latency.engine, device, latency.host),
        resolve_device(latency.engine, device, latency.host),
    )
    is_measured = (engine.name, settings.device) == measured_in and latency.batch_size == 1
    dataset = config.data.open_cached("val", context.cache_dir)
    checkpoint = stage_folder / "checkpoint.safetensors"
    metadata = read_metadata(checkpoint)
    model = load_checkpoint(checkpoint)
    image_size = latency.resolution or dataset.common_size
    normalization = normalization_of(model)
    content = BundleContent(
        classes=tuple(dataset.classes),
        colors=[name_colour(colour) for colour in dataset.colours],
        normalization=normalization,
        value_range=config.data.find_value_range(),
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

    Eager and compiled PyTorch run no files, and this machine may lack the engine or its device: it
    may be the head of a cluster, or latency may be that of another host. In these cases the
    networks are written as ONNX.

    Args:
        config: Settings of the latency measurement.
        device: Torch device of the study's latencies.
    """
    engine = ENGINES[resolve_engine(config.engine, device, config.host)]
    settings = EngineSettings(
        device=resolve_device(config.engine, device, config.host),
        dtype=config.dtype,
        num_threads=config.num_threads,
        fold_batchnorm=config.fold_batchnorm,
    )
    if isinstance(engine, FileEngine) and _is_here(engine, settings):
        return engine, settings
    return OnnxRuntime(), EngineSettings(num_threads=config.num_threads)


def _is_here(engine: FileEngine, settings: EngineSettings) -> bool:
    """Whether this machine has the engine and its device."""
    try:
        engine.check(settings)
    except EngineError:
        return False
    return True
