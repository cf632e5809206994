"""Export to ONNX. A file is written only if it computes what PyTorch computes.

Examples:
  python -m models.export RUN_DIR --trial 4
  python -m models.export RUN_DIR/stages/distilled-KEY --output net.onnx --image-size 360 480
  python -m models.export net.safetensors --output net.onnx --image-size 512 1024 --normalize
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor, nn

from models.checkpoint import CheckpointError, load_checkpoint, read_metadata
from models.deployment.bundle import (
    MODEL_FILE,
    BundleContent,
    copy_bundle,
    describe_bundle,
    is_bundle,
    read_bundle,
    update_bundle,
)
from models.deployment.graph import DeployedGraph, choose_classes
from models.deployment.run_folder import CHECKPOINT, RunFolderError, TrialCheckpoint, find_trial
from models.engines import ENGINES, Engine, EngineError, EngineSettings, FileEngine
from models.engines.batchnorm_folding import fold_batchnorms
from models.engines.onnx_graph import DEFAULT_OPSET, OPSETS, ExportError, translate
from models.engines.onnxruntime import OnnxRuntime
from models.files.atomic_file import write_atomically
from models.network import SegmentationNetwork, copy_to_cpu
from models.normalization import Normalization

PROGRAM = "python -m models.export"
MAX_ERROR = 1e-4
MAX_ERROR_UNPOOLING = 0.03
SMALLEST_SIDE = 64
UNSET = (0, 0)  # not None, because tyro would then read words after a size as part of it
ERRORS = (CheckpointError, EngineError, ExportError, RunFolderError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """An exported file.

    Attributes:
        path: Path of the file.
        num_bytes: Size of the file.
        input_shape: Shape of its input `images`, (N, 3, H, W).
        output_shape: Shape of its output, (N, num_classes, H, W) `logits` or (N, H, W) `classes`.
        error: Relative error of the logits in onnxruntime: L2 norm of the difference from PyTorch's
            logits divided by the L2 norm of those. For classes: fraction of pixels that differ.
    """

    path: Path
    num_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    error: float

    def describe(self, images: str, answer: str) -> str:
        """Describe the file in one line."""
        return (
            f"{self.path}: {self.num_bytes / 1e6:.1f} MB, {images} images {self.input_shape} -> "
            f"{answer} {self.output_shape}, relative error {self.error:.1g} in onnxruntime"
        )


def export_onnx(
    model: SegmentationNetwork,
    path: str | Path,
    *,
    image_size: tuple[int, int],
    batch_size: int = 1,
    normalization: Normalization | None = None,
    fold_batchnorm: bool = True,
    opset: int = DEFAULT_OPSET,
    source_size: tuple[int, int] | None = None,
    argmax: bool = False,
    dynamic_batch: bool = False,
    max_error: float | None = None,
    notes: Mapping[str, str] | None = None,
) -> Export:
    """Write a network for deployment, after comparing onnxruntime's output with PyTorch's.

    The file accepts images of one height and width only, because many networks derive grids and
    paddings from the image size. Without `normalization` it takes the float32 images that
    `trainables.data.normalize` returns, as the network does.

    Args:
        model: Network, pruned or not, in either mode, on any device; not changed.
        path: Path of the file; missing folders are made. The file is replaced atomically.
        image_size: Height and width of the network's input, at least 64.
        batch_size: Number of images in a batch.
        normalization: Normalisation to put into the file, which then takes (N, 3, H, W) uint8 RGB.
        fold_batchnorm: Whether to fold BatchNorms into the convolutions before them.
        opset: Version of ONNX's operators, 11 to 23; older engines need an older one (TensorRT 8.2
            reads 13, 8.5 reads 17).
        source_size: Height and width of the images. The file resizes them to `image_size` and its
            output back. None: images already have `image_size`.
        argmax: Whether the file returns `classes`, (N, H, W) uint8, instead of `logits`; for at
            most 256 classes.
        dynamic_batch: Whether the file takes any number of images rather than exactly `batch_size`.
        max_error: Largest `Export.error` that is allowed. None: 1e-4, or 0.03 for networks that
            unpool (SegNet, ENet), where rounding moves single values to a neighbouring position.
        notes: Entries of the file's metadata, in addition to the network's name.

    Raises:
        ValueError: An argument is out of range, or there are too many classes for `argmax`.
        ExportError: The network does not run on such images or cannot be translated, or the error
            is above the limit.
    """
    path = Path(path)
    _check_arguments(model, path, image_size, source_size, batch_size, opset, max_error)
    network = copy_to_cpu(model)
    parts = (network, normalization, image_size, source_size)
    whole = DeployedGraph(*parts, argmax=argmax).eval()
    shape = (batch_size, 3, *(source_size or image_size))
    images = _draw_images(shape, is_normalized=normalization is None)
    logits = _compute_logits(DeployedGraph(*parts).eval(), images)
    if not logits.isfinite().all():
        raise ExportError("the network's logits are not finite, so the export cannot be checked")
    expected = choose_classes(logits) if argmax else logits
    if fold_batchnorm:  # at the image size, because some networks accept no other
        fold_batchnorms(network, _draw_images((1, 3, *image_size), is_normalized=True))
    content, unpools = translate(
        whole, images, opset, {"network": model.name, **(notes or {})},
        output="classes" if argmax else "logits", has_dynamic_batch=dynamic_batch,
    )  # fmt: skip
    error = _measure_error(_run_onnx(content, images), expected)
    if dynamic_batch:
        error = max(error, _measure_other_batch(whole, content, shape, normalization is None))
    if max_error is None:
        max_error = MAX_ERROR_UNPOOLING if unpools else MAX_ERROR
    if not error <= max_error:
        raise ExportError(
            f"the exported network differs from PyTorch's: the relative error of its "
            f"{'classes' if argmax else 'logits'} is {error:.2g}, the limit is {max_error:.2g}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, content)
    return Export(
        path=path,
        num_bytes=len(content),
        input_shape=tuple(images.shape),
        output_shape=tuple(expected.shape),
        error=error,
    )


def export_bundle(
    model: SegmentationNetwork,
    folder: Path,
    content: BundleContent,
    *,
    image_size: tuple[int, int],
    engine: FileEngine | None = None,
    settings: EngineSettings | None = None,
    batch_size: int = 1,
    opset: int = DEFAULT_OPSET,
) -> Export:
    """Write a float network as model.onnx with the engine's own files, model.json and predict.py.

    Args:
        model: Network, which is not changed.
        folder: Folder of the files; made if missing, and existing files are replaced.
        content: Content of model.json.
        image_size: Height and width of the images that the files take.
        engine: Engine that will run the files; default: ONNX Runtime.
        settings: Settings of the engine.
        batch_size: Number of images in a batch.
        opset: As in `export_onnx`.

    Raises:
        ExportError: The network cannot be exported.
        EngineError: The engine cannot run the network.
    """
    engine, settings = engine or OnnxRuntime(), settings or EngineSettings()
    export = export_onnx(
        model,
        folder / MODEL_FILE,
        image_size=image_size,
        batch_size=batch_size,
        normalization=content.normalization,
        fold_batchnorm=settings.fold_batchnorm,
        opset=opset,
        notes={"classes": json.dumps(list(content.classes))},
    )
    shape = (batch_size, 3, *image_size)
    files = engine.write_files(folder / MODEL_FILE, shape, settings)
    describe_bundle(folder, content, [*files, MODEL_FILE], shape, engine.describe(settings))
    return export


def _measure_other_batch(
    whole: nn.Module, content: bytes, shape: tuple[int, ...], is_normalized: bool
) -> float:
    """Measure the error with one more image than the file was traced with."""
    images = _draw_images((shape[0] + 1, *shape[1:]), is_normalized=is_normalized)
    with torch.no_grad():
        return _measure_error(_run_onnx(content, images), whole(images))


def _run_onnx(content: bytes, images: Tensor) -> Tensor:
    settings = EngineSettings(num_threads=torch.get_num_threads())
    shape = (images.shape[0], images.shape[1], images.shape[2], images.shape[3])
    try:
        return torch.from_numpy(OnnxRuntime().load(content, shape, settings).run(images.numpy()))
    except EngineError as error:
        raise ExportError(f"the export does not run: {error}") from error


def _draw_images(shape: tuple[int, ...], *, is_normalized: bool) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if is_normalized:
        return torch.randn(shape, generator=generator)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


@torch.no_grad()
def _compute_logits(whole: nn.Module, images: Tensor) -> Tensor:
    try:
        logits: Tensor = whole(images)
    except Exception as error:  # a user's network may raise any exception
        raise ExportError(
            f"the network does not run on images of shape {tuple(images.shape)}: {error}"
        ) from error
    return logits


def _measure_error(found: Tensor, expected: Tensor) -> float:
    """Compare by L2 norm: the largest difference may come from a single moved value."""
    if found.shape != expected.shape:
        return float("inf")
    if not found.is_floating_point():
        return float((found != expected).double().mean())
    difference = (found.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp_min(1e-30))


def _check_arguments(
    model: nn.Module, path: Path, image_size: tuple[int, int],
    source_size: tuple[int, int] | None, batch_size: int, opset: int, max_error: float | None,
) -> None:  # fmt: skip
    if not isinstance(model, SegmentationNetwork):
        raise ValueError(f"model must be a SegmentationNetwork, got a {type(model).__name__}")
    for name, size in (("image_size", image_size), ("source_size", source_size)):
        if size is not None and (len(size) != 2 or min(size) < SMALLEST_SIDE):
            raise ValueError(
                f"{name} must be a height and a width of at least {SMALLEST_SIDE}, "
                f"got {tuple(size)}"
            )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if opset not in OPSETS:
        raise ValueError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, got {opset}")
    if max_error is not None and not max_error > 0:
        raise ValueError(f"max_error must be above 0, got {max_error}")
    if path.is_dir():
        raise ValueError(f"path must be that of a file, got the folder {path}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Export a network to ONNX.

    Attributes:
        checkpoint: A checkpoint, or the folder of a stage that holds one; with --trial the folder
            of a run.
        factory: Function or class of a network of yours, as in the search: package.module:factory
            or path/to/file.py:factory. Without it, code that only the checkpoint names is not run.
        trial: Trial number in the run; the trial's last network is exported.
        output: File to write. Default with --trial: the folder RUN_DIR/deploy/TRIAL, with the
            engine's own files, model.json and predict.py.
        image_size: Height and width of the network's input, at least 64. Default with --trial:
            those at which the run measured latency.
        batch_size: Number of images in a batch.
        normalize: Put the checkpoint's normalisation into the file, which then takes uint8 RGB;
            RUN_DIR/deploy always has it.
        source_size: Height and width of the images. The file resizes them to the image size and its
            output back. Default: images already have the image size.
        argmax: Return the class of each pixel (uint8) instead of logits.
        dynamic_batch: Accept any number of images in a batch.
        fold_batchnorm: Fold BatchNorms into the convolutions before them.
        opset: Version of ONNX's operators, 11 to 23; older engines need an older one.
        max_error: Largest error of the logits in onnxruntime, relative to PyTorch's; default: 1e-4,
            or 0.03 for networks that unpool (SegNet, ENet).
    """

    checkpoint: tyro.conf.Positional[Path]
    factory: str | None = None
    trial: int | None = None
    output: Path | None = None
    image_size: tuple[int, int] = UNSET
    batch_size: int = 1
    normalize: bool = False
    source_size: tuple[int, int] = UNSET
    argmax: bool = False
    dynamic_batch: bool = False
    fold_batchnorm: bool = True
    opset: int = DEFAULT_OPSET
    max_error: float | None = None


def run(arguments: Arguments) -> str:
    """Export the network that the arguments name.

    Returns:
        One line that describes the written files.

    Raises:
        ValueError: An argument is out of range.
        UntrustedNetworkError: The checkpoint names code that was not given as the factory.
        CheckpointError: The checkpoint is missing or cannot be read.
        RunFolderError: The folder of the run does not have the trial.
        EngineError: The run's engine cannot run the network.
        ExportError: The network cannot be exported, see `export_onnx`.
    """
    path, output, image_size = arguments.checkpoint, arguments.output, arguments.image_size
    is_set = image_size != UNSET
    if arguments.trial is not None:
        trial = find_trial(path, arguments.trial)
        if output is None:
            return _export_trial(trial, path / "deploy" / str(arguments.trial), arguments)
        path, image_size = trial.folder, image_size if is_set else trial.resolution
    elif output is None or not is_set:
        raise ValueError("--output and --image-size are required without --trial")
    path = path / CHECKPOINT if path.is_dir() else path
    metadata = read_metadata(path)
    model = load_checkpoint(path, factory=arguments.factory)
    export = export_onnx(
        model,
        output,
        image_size=image_size,
        batch_size=arguments.batch_size,
        normalization=model.normalization if arguments.normalize else None,
        fold_batchnorm=arguments.fold_batchnorm,
        opset=arguments.opset,
        source_size=arguments.source_size if arguments.source_size != UNSET else None,
        argmax=arguments.argmax,
        dynamic_batch=arguments.dynamic_batch,
        max_error=arguments.max_error,
        notes={"classes": json.dumps(metadata["classes"])} if "classes" in metadata else {},
    )
    kind = "uint8 RGB" if arguments.normalize else "normalised float32"
    return export.describe(kind, "classes" if arguments.argmax else "logits")


def _export_trial(trial: TrialCheckpoint, folder: Path, arguments: Arguments) -> str:
    """Write a trial's network in the form of `RUN_DIR/deploy`, without evaluating the file.

    If the study has deployed the network already, the new files keep its colours and the range of
    its images, and also its mIoU if they have the same engine, precision and image size.
    """
    made = {"trial": trial.number, "stage": trial.folder.name, "run": trial.results}
    if is_bundle(trial.folder):
        copy_bundle(trial.folder, folder, {"made": made})
        return f"{folder}: the quantised files of {trial.folder.name}"
    path = trial.folder / CHECKPOINT
    metadata = read_metadata(path)
    model = load_checkpoint(path, factory=arguments.factory)
    measured = trial.metadata["latency"]
    engine, settings, note = _choose_engine(measured)
    earlier = read_bundle(folder) if is_bundle(folder) else {}
    if note and earlier and earlier["engine"]["name"] != engine.name:
        raise EngineError(
            f"{folder} holds the files of {earlier['engine']['name']}, which this machine cannot "
            f"write; use --output FILE.onnx to write a file for {engine.name} elsewhere"
        )
    image_size = arguments.image_size if arguments.image_size != UNSET else trial.resolution
    input_size = arguments.batch_size, image_size
    has_latency = not note and input_size == (measured.get("batch_size", 1), trial.resolution)
    content = BundleContent(
        classes=metadata["classes"],
        normalization=model.normalization,
        value_range=earlier["input"].get("range") if earlier else None,
        latency_ms=trial.results.get("latency_ms") if has_latency else None,
        made=made,
    )
    export = export_bundle(
        model,
        folder,
        content,
        image_size=image_size,
        engine=engine,
        settings=settings,
        batch_size=arguments.batch_size,
        opset=arguments.opset,
    )
    if earlier:
        written = read_bundle(folder)
        before = {"range": None, **earlier["input"]}  # files of older versions have no range
        is_same = written["input"] == before and all(
            written["engine"][name] == earlier["engine"][name] for name in ("name", "precision")
        )
        kept = ("classes", "miou") if is_same else ("classes",)
        update_bundle(folder, {name: earlier[name] for name in kept})
    return export.describe("uint8 RGB", "logits") + note


def _choose_engine(measured: Mapping[str, Any]) -> tuple[FileEngine, EngineSettings, str]:
    """Choose the engine to write files for: that of the run, else ONNX Runtime on a CPU.

    Args:
        measured: Settings of the run's latency.

    Returns:
        The engine, its settings, and why it is not that of the run; empty if it is.
    """
    engine: Engine = ENGINES[measured.get("engine", OnnxRuntime.name)]
    settings = EngineSettings(
        device=measured["device"], dtype=measured["dtype"], num_threads=measured["num_threads"]
    )
    try:
        if not isinstance(engine, FileEngine):
            raise EngineError(f"{engine.name} runs no files")
        engine.check(settings)
    except EngineError as error:
        return OnnxRuntime(), EngineSettings(), f"\nwritten for onnxruntime, because {error}"
    return engine, settings, ""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit status: 0, or 2 after an error, when no file was written.
    """
    arguments = tyro.cli(Arguments, args=argv, prog=PROGRAM, description=__doc__)
    try:
        print(run(arguments))
    except (ValueError, OSError, *ERRORS) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
