r"""Compare the mIoU and latency of float32 and int8 files, run in their engines, on CamVid.

CamVid lies in $SEGFRONT_CAMVID. Each network is written for each engine in float32 and in int8,
either quantised after training (ptq) or fine-tuned with quantisation (qat), with the float network
as the teacher. The accuracy is that of the file on the validation split. The latency is measured
alternately with the uncompressed student in the same engine. Layers whose quantisation costs too
much accuracy stay in float (--max-drop); the benchmark counts them.

Example, with the published ESPNet and a network of a run (5 minutes on an idle core):
  python benchmarks/int8.py --espnet WEIGHTS/camvid_espnet_orig/espnet_p2_q8_camvid12.safetensors \\
    --checkpoints RUN_DIR/stages/distilled-KEY/checkpoint.safetensors
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from command import run_command
from rich.console import Console

from models import create_model
from models.checkpoint import load_checkpoint, read_structure, save_checkpoint
from models.engines import ENGINES, EngineSettings
from models.pretrained import SOURCES, load_pretrained
from trainables.artifacts.store import Artifact, ArtifactStore
from trainables.context import StageContext
from trainables.data import AugmentationConfig
from trainables.data_source import DataConfig
from trainables.learning.evaluation import evaluate
from trainables.learning.training import TrainConfig
from trainables.pipeline_config import Int8Config, LatencyConfig, PipelineConfig
from trainables.process.device_lock import DeviceLock
from trainables.stages.deployed_file import DeployedFile
from trainables.stages.latency import find_reference
from trainables.stages.stage import NetworkStage

WAYS = {"float32": None, "int8 ptq": "ptq", "int8 qat": "qat"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Networks, engines and methods to measure.

    Attributes:
        output: JSON file for the results; default: none.
        espnet: File of the published ESPNet's weights.
        checkpoints: Checkpoints of networks that were trained on CamVid.
        size: Height and width to which images are scaled; default: their own, 360x480.
        engines: Engines, keys of `models.quantization.QUANTIZERS`.
        ways: Forms of the file, from float32, int8 ptq and int8 qat.
        max_drop: Largest loss of mIoU that int8 may cost, from 0 to 1.
        num_steps: Number of steps of the fine-tuning for qat.
        max_seconds: Longest time of one latency measurement.
    """

    output: Path | None = None
    espnet: Path | None = None
    checkpoints: tuple[Path, ...] = ()
    size: tuple[int, int] | None = None
    engines: tuple[str, ...] = ("onnxruntime", "openvino")
    ways: tuple[str, ...] = tuple(WAYS)
    max_drop: float = 0.01
    num_steps: int = 100
    max_seconds: float = 5.0


class Given(NetworkStage):
    """A stage whose network is an existing checkpoint.

    Args:
        path: The checkpoint.
    """

    name = "given"

    def __init__(self, path: Path) -> None:
        self.parents = {}
        self.path = path

    @classmethod
    def build(cls, settings: Any, inputs: Any) -> Given:
        """Not supported."""
        raise NotImplementedError

    def content(self) -> dict[str, Any]:
        """The path of the checkpoint."""
        return {"path": str(self.path)}

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Copy the checkpoint."""
        (folder / "checkpoint.safetensors").write_bytes(self.path.read_bytes())
        return {"seconds": 0.0}

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """There are no metrics."""
        return {}


def measure(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Write, evaluate and time every file."""
    with tempfile.TemporaryDirectory() as folder:
        return {"results": _measure_all(arguments, console, Path(folder))}


def _measure_all(arguments: Arguments, console: Console, folder: Path) -> list[dict[str, Any]]:
    context = StageContext(
        cache_dir=folder / "cache", device_lock=DeviceLock("cpu", folder / "locks")
    )
    crop_size = (240, 320) if arguments.size is None else arguments.size
    config = PipelineConfig(
        data=DataConfig(
            name="camvid",
            size=arguments.size,
            augmentation=AugmentationConfig(crop_size=crop_size, scale_range=(0.75, 1.5)),
        ),
        latency=LatencyConfig(max_seconds=arguments.max_seconds),
        distil=TrainConfig(batch_size=4),
        int8=Int8Config(max_drop=arguments.max_drop, num_steps=arguments.num_steps),
    )
    paths = list(arguments.checkpoints)
    if arguments.espnet is not None:
        paths.insert(0, folder / "espnet.safetensors")
        _save_espnet(arguments.espnet, paths[0], config, context)
    store = ArtifactStore(folder / "stages")
    results = []
    for path in paths:
        for engine in arguments.engines:
            ENGINES[engine].check(EngineSettings())
            timed = replace(config, latency=replace(config.latency, engine=engine))
            reference = find_reference(timed, context)
            for way in arguments.ways:
                file = DeployedFile(
                    Given(path), timed, "cpu", method=WAYS[way], reference=reference
                )
                found = file.obtain(store, context).result
                row = {
                    "network": f"{read_structure(path).name} ({path.parent.name})",
                    "engine": engine,
                    "way": way,
                    "miou": round(100 * found["miou"], 2),
                    "latency_ms": round(found["median_ms"], 2),
                    "interval_ms": [round(value, 2) for value in found["interval_ms"]],
                    "kept_float": found["kept_float"],
                    "seconds": round(found["seconds"]),
                }
                results.append(row)
                console.print_json(json.dumps(row), indent=None)
    return results


def _save_espnet(weights: Path, path: Path, config: PipelineConfig, context: StageContext) -> None:
    """Save the published network without its void class, with its accuracy in PyTorch."""
    source = SOURCES["camvid_espnet"]
    known = range(len(source.classes) - 1)
    model = create_model("espnet", num_classes=len(source.classes), outputs=known)
    load_pretrained(model, weights, naming=source.naming)
    model.normalization = source.normalization
    save_checkpoint(path, model.eval())
    miou = evaluate(load_checkpoint(path), config.data.open("val"), context).miou
    save_checkpoint(path, model, {"miou": miou, "classes": list(source.classes[:-1])})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit status, see `run_command`."""
    progress = Console(stderr=True)  # the document may go to the standard output
    return run_command(Arguments, measure, argv, description=__doc__, console=progress)


if __name__ == "__main__":
    sys.exit(main())
