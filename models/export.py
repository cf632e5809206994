"""Export to ONNX: one file for any engine, written only once it computes what PyTorch computes.

Examples:
  python -m models.export RUN_DIR/stages/distilled-KEY --output net.onnx --image-size 360 480
  python -m models.export net.safetensors --output net.onnx --image-size 512 1024 --normalize
"""

from __future__ import annotations

import copy
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

from models.checkpoint import CheckpointError, load_checkpoint, read_metadata
from models.engines.batchnorm_folding import fold_batchnorms
from models.engines.onnx_graph import ExportError, check_packages, run_onnx, translate
from models.files.atomic_file import write_atomically
from models.network import SegmentationNetwork
from models.normalization import Normalization, Normalize

PROGRAM = "python -m models.export"
OPSETS = range(18, 24)
DEFAULT_OPSET = 20
MAX_ERROR = 1e-4
MAX_ERROR_UNPOOLING = 0.03


@dataclass(frozen=True, kw_only=True, slots=True)
class Export:
    """A written file and what is known of it.

    Attributes:
        path: Where it lies.
        num_bytes: Its size.
        input_shape: (N, 3, H, W) of its input `images`.
        output_shape: (N, num_classes, H, W) of its output `logits`.
        error: Of its logits in onnxruntime: the root of the sum of the squared differences from
            PyTorch's, relative to the root of the sum of the squares of PyTorch's.
    """

    path: Path
    num_bytes: int
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    error: float


def export_onnx(
    model: SegmentationNetwork,
    path: str | Path,
    *,
    image_size: tuple[int, int],
    batch_size: int = 1,
    normalization: Normalization | None = None,
    fold_batchnorm: bool = True,
    opset: int = DEFAULT_OPSET,
    max_error: float | None = None,
    notes: Mapping[str, str] | None = None,
) -> Export:
    """Write a network for deployment, after running it in onnxruntime beside PyTorch.

    The file's input `images` and output `logits` have the one shape that is asked for: many
    networks derive grids and paddings from the size of the images. Like the network it takes
    float32 images as `trainables.data.normalize` returns them, unless that becomes part of it.

    Args:
        model: Dense, pruned or loaded, in either mode, on any device; left untouched.
        path: Where to; folders are made. It holds either what was there or the whole new file.
        image_size: H and W, at least 64.
        batch_size: Images at a time.
        normalization: The file begins with it, and takes (N, 3, H, W) uint8, RGB.
        fold_batchnorm: Fold BatchNorms into the convolutions before them.
        opset: Version of ONNX's operators, 18 to 23; an older one suits older engines.
        max_error: The largest `Export.error` allowed. None: 1e-4, and 0.03 for networks that
            unpool (SegNet, ENet), where rounding moves a value to the neighbour here and there.
        notes: For the file's metadata, beside the network's name.

    Raises:
        ValueError: An argument is out of range.
        ExportError: A package is missing, the network cannot be translated, or the error is above
            the limit.
    """
    path = Path(path)
    _check_arguments(model, path, image_size, batch_size, opset, max_error)
    check_packages()
    network = copy.deepcopy(model).cpu().float().to(memory_format=torch.contiguous_format)
    whole = network if normalization is None else nn.Sequential(Normalize(normalization), network)
    whole.eval()
    images = _draw_images((batch_size, 3, *image_size), is_normalized=normalization is None)
    with torch.no_grad():
        expected: Tensor = whole(images)
    if not expected.isfinite().all():
        raise ExportError("the network's logits are not finite: there is nothing to compare with")
    if fold_batchnorm:
        _fold(network)
    content, unpools = translate(whole, images, opset, {"network": model.name, **(notes or {})})
    error = _measure_error(run_onnx(content, images), expected)
    if max_error is None:
        max_error = MAX_ERROR_UNPOOLING if unpools else MAX_ERROR
    if not error <= max_error:
        raise ExportError(
            f"the exported network computes something else: the relative error of its logits is "
            f"{error:.2g}, the limit {max_error:.2g}"
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
    difference = (found.double() - expected.double()).norm()
    return float(difference / expected.double().norm().clamp_min(1e-30))


def _check_arguments(
    model: nn.Module, path: Path, image_size: tuple[int, int], batch_size: int, opset: int,
    max_error: float | None,
) -> None:  # fmt: skip
    if not isinstance(model, SegmentationNetwork):
        raise ValueError(f"model must be a SegmentationNetwork, got a {type(model).__name__}")
    if len(image_size) != 2 or min(image_size) < 64:
        raise ValueError(
            f"image_size must be a height and a width of at least 64, got {tuple(image_size)}"
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
        checkpoint: A checkpoint, or the folder of a stage that holds one.
        output: The file to write.
        image_size: Height and width of the images, at least 64.
        batch_size: Images at a time.
        normalize: Put the checkpoint's normalisation into the file, which then takes uint8 RGB.
        fold_batchnorm: Fold BatchNorms into the convolutions before them.
        opset: Version of ONNX's operators, 18 to 23; an older one suits older engines.
        max_error: Largest error of the logits in onnxruntime, relative to PyTorch's; default:
            1e-4, or 0.03 where rounding moves values (SegNet, ENet).
    """

    checkpoint: tyro.conf.Positional[Path]
    output: Path
    image_size: tuple[int, int]
    batch_size: int = 1
    normalize: bool = False
    fold_batchnorm: bool = True
    opset: int = DEFAULT_OPSET
    max_error: float | None = None


def run(arguments: Arguments) -> Export:
    """Load the checkpoint and export it.

    Raises:
        ValueError: An argument is out of range, or the checkpoint states no normalisation.
        CheckpointError: There is no readable checkpoint.
        ExportError: See `export_onnx`.
    """
    path = arguments.checkpoint
    path = path / "checkpoint.safetensors" if path.is_dir() else path
    model, metadata = load_checkpoint(path), read_metadata(path)
    return export_onnx(
        model,
        arguments.output,
        image_size=arguments.image_size,
        batch_size=arguments.batch_size,
        normalization=Normalization.from_metadata(metadata) if arguments.normalize else None,
        fold_batchnorm=arguments.fold_batchnorm,
        opset=arguments.opset,
        max_error=arguments.max_error,
        notes={"classes": json.dumps(metadata["classes"])} if "classes" in metadata else {},
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse flags, export, print what was written.

    Returns:
        Exit status: 0, or 2 if nothing was written.
    """
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of what the exporter does
    arguments = tyro.cli(Arguments, args=argv, prog=PROGRAM, description=__doc__)
    try:
        export = run(arguments)
    except (ValueError, OSError, CheckpointError, ExportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    kind = "uint8 RGB" if arguments.normalize else "normalised float32"
    print(
        f"{export.path}: {export.num_bytes / 1e6:.1f} MB, {kind} images {export.input_shape} -> "
        f"logits {export.output_shape}, relative error {export.error:.1g} in onnxruntime"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
