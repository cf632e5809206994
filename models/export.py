"""Export to ONNX: one file for any engine, written only once it computes what PyTorch computes.

Examples:
  python -m models.export RUN_DIR --trial 4
  python -m models.export RUN_DIR/stages/distilled-KEY --output net.onnx --image-size 360 480
  python -m models.export net.safetensors --output net.onnx --image-size 512 1024 --normalize
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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
)
from models.deployment.graph import DeployedGraph
from models.deployment.run_folder import CHECKPOINT, RunFolderError, TrialCheckpoint, find_trial
from models.engines import ENGINES, Engine, EngineError, EngineSettings, FileEngine
from models.engines.batchnorm_folding import fold_batchnorms
from models.engines.onnx_graph import DEFAULT_OPSET, OPSETS, ExportError, translate
from models.engines.onnxruntime import OnnxRuntime
from models.files.atomic_file import write_atomically
from models.network import SegmentationNetwork
from models.normalization import Normalization

PROGRAM = "python -m models.export"
MAX_ERROR = 1e-4
MAX_ERROR_UNPOOLING = 0.03
SMALLEST_SIDE = 64
UNSET = (0, 0)  # not None, which would let tyro take the words after a size for part of it
ERRORS = (CheckpointError, EngineError, ExportError, RunFolderError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A written file and what is known of it.

    Attributes:
        path: Where it lies.
        num_bytes: Its size.
        input_shape: (N, 3, H, W) of its input `images`.
        output_shape: Of its output: (N, num_classes, H, W) `logits` or (N, H, W) `classes`.
        error: Of its logits in onnxruntime: the root of the sum of the squared differences from
            PyTorch's, relative to the root of the sum of the squares of PyTorch's. Of classes: the
            share of pixels that differ.
    """

    path: Path
    num_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    error: float

    def describe(self, images: str, answer: str) -> str:
        """Say what was written in a line."""
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
    """Write a network for deployment, after running it in onnxruntime beside PyTorch.

    The file's input `images` has the one height and width that is asked for: many networks derive
    grids and paddings from the size of the images. Like the network it takes float32 images as
    `trainables.data.normalize` returns them, unless that becomes part of it.

    Args:
        model: Dense, pruned or loaded, in either mode, on any device; left untouched.
        path: Where to; folders are made. It holds either what was there or the whole new file.
        image_size: H and W that the network works at, at least 64.
        batch_size: Images at a time.
        normalization: The file begins with it, and takes (N, 3, H, W) uint8, RGB.
        fold_batchnorm: Fold BatchNorms into the convolutions before them.
        opset: Version of ONNX's operators, 11 to 23; an older one suits older engines (TensorRT 8.2
            takes 13, 8.5 takes 17).
        source_size: H and W of the images, which the file then resizes to `image_size`, and its
            answers back; None: images come at `image_size`.
        argmax: The file answers with `classes` (N, H, W) uint8 rather than with `logits`.
        dynamic_batch: The file takes any number of images, rather than `batch_size` alone.
        max_error: The largest `Export.error` allowed. None: 1e-4, and 0.03 for networks that
            unpool (SegNet, ENet), where rounding moves a value to the neighbour here and there.
        notes: For the file's metadata, beside the network's name.

    Raises:
        ValueError: An argument is out of range.
        ExportError: The network cannot be translated, or the error is above the limit.
    """
    path = Path(path)
    _check_arguments(model, path, image_size, source_size, batch_size, opset, max_error)
    network = copy.deepcopy(model).cpu().float().to(memory_format=torch.contiguous_format).eval()
    whole = DeployedGraph(network, normalization, image_size, source_size, argmax=argmax).eval()
    shape = (batch_size, 3, *(source_size or image_size))
    images = _draw_images(shape, is_normalized=normalization is None)
    with torch.no_grad():
        expected: Tensor = whole(images)
    if not expected.isfinite().all():
        raise ExportError("the network's logits are not finite: there is nothing to compare with")
    if fold_batchnorm:
        _fold(network)
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
            f"the exported network computes something else: the relative error of its "
            f"{'classes' if argmax else 'logits'} is {error:.2g}, the limit {max_error:.2g}"
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
        model: Left untouched.
        folder: Is made; files of these names are replaced.
        content: What model.json says.
        image_size: Height and width of the images that the files take.
        engine: What is to run them; default: ONNX Runtime.
        settings: How the engine runs them.
        batch_size: Images at a time.
        opset: As in `export_onnx`.

    Raises:
        ExportError: The network cannot be exported.
        EngineError: The engine does not take it.
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
    """Measure the error with one image more than the file was traced with."""
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


def _fold(network: nn.Module) -> None:
    """Fold at a small size: the pairs are the same at any."""
    try:
        fold_batchnorms(network, _draw_images((1, 3, 64, 96), is_normalized=True))
    except RuntimeError as error:
        raise ExportError(f"BatchNorms cannot be folded, leave that out: {error}") from error


def _measure_error(found: Tensor, expected: Tensor) -> float:
    """Compare by the squares: the largest difference may be that of a single moved value."""
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
        raise ValueError(f"the file to write must not be a folder, got {path}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """What to export and how.

    Attributes:
        checkpoint: A checkpoint, the folder of a stage that holds one, or with --trial a run's
            folder.
        factory: Of a network of yours, as the search was told: package.module:factory or
            path/to/file.py:factory. Without it, code that only the checkpoint names is not run.
        trial: Number of a trial of the run; its last network is exported.
        output: The file to write; default with --trial: the folder RUN_DIR/deploy/TRIAL, with the
            engine's own files, model.json and predict.py.
        image_size: Height and width that the network works at, at least 64; default with --trial:
            those at which the run measured latency.
        batch_size: Images at a time.
        normalize: Put the checkpoint's normalisation into the file, which then takes uint8 RGB; in
            RUN_DIR/deploy always.
        source_size: Height and width of the images, which the file resizes to the image size, and
            its answers back; default: images come at the image size.
        argmax: Answer with the class of each pixel (uint8) rather than with logits.
        dynamic_batch: Take any number of images.
        fold_batchnorm: Fold BatchNorms into the convolutions before them.
        opset: Version of ONNX's operators, 11 to 23; an older one suits older engines.
        max_error: Largest error of the logits in onnxruntime, relative to PyTorch's; default:
            1e-4, or 0.03 where rounding moves values (SegNet, ENet).
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
    """Export what is asked for.

    Returns:
        What was written, in a line.

    Raises:
        ValueError: An argument is out of range.
        UntrustedNetworkError: The checkpoint names code that nobody gave as the factory.
        CheckpointError: There is no readable checkpoint.
        RunFolderError: The run's folder does not have the trial.
        EngineError: The run's engine does not take the network.
        ExportError: See `export_onnx`.
    """
    path, output, image_size = arguments.checkpoint, arguments.output, arguments.image_size
    is_set = image_size != UNSET
    if arguments.trial is not None:
        trial = find_trial(path, arguments.trial)
        if output is None:
            return _export_trial(trial, path / "deploy" / str(arguments.trial), arguments)
        path, image_size = trial.folder, image_size if is_set else trial.resolution
    elif output is None or not is_set:
        raise ValueError("--output and --image-size are needed, except with --trial of a run")
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
    """Write a trial's network as `RUN_DIR/deploy` has it, without evaluating it in its engine."""
    made = {"trial": trial.number, "stage": trial.folder.name, "run": trial.results}
    if is_bundle(trial.folder):
        copy_bundle(trial.folder, folder, {"made": made})
        return f"{folder}: the quantised files of {trial.folder.name}"
    path = trial.folder / CHECKPOINT
    metadata = read_metadata(path)
    model = load_checkpoint(path, factory=arguments.factory)
    measured = trial.metadata["latency"]
    engine: Engine = ENGINES[measured.get("engine", OnnxRuntime.name)]
    settings = EngineSettings(
        device=measured["device"], dtype=measured["dtype"], num_threads=measured["num_threads"]
    )
    is_measured = isinstance(engine, FileEngine)
    content = BundleContent(
        classes=metadata["classes"],
        normalization=model.normalization,
        latency_ms=trial.results.get("latency_ms") if is_measured else None,
        made=made,
    )
    export = export_bundle(
        model,
        folder,
        content,
        image_size=arguments.image_size if arguments.image_size != UNSET else trial.resolution,
        engine=engine if isinstance(engine, FileEngine) else OnnxRuntime(),
        settings=settings if is_measured else EngineSettings(),
        batch_size=arguments.batch_size,
        opset=arguments.opset,
    )
    return export.describe("uint8 RGB", "logits")


def main(argv: Sequence[str] | None = None) -> int:
    """Parse flags, export, print what was written.

    Returns:
        Exit status: 0, or 2 if nothing was written.
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
