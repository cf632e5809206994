"""Opens a network of a run: a checkpoint for PyTorch, or files for their engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from torch import Tensor

from models.checkpoint import CheckpointError, load_checkpoint
from models.deployment.bundle import read_bundle
from models.deployment.run_folder import CHECKPOINT
from models.engines import ENGINES, EngineError, EngineSettings, FileEngine
from trainables.context import StageContext
from trainables.data import SegmentationDataset
from trainables.learning.evaluation import evaluate
from trainables.learning.file_evaluation import evaluate_predictions
from trainables.metrics import ConfusionMatrix
from trainables.predicting.run_networks import RunNetwork


class Evaluate(Protocol):
    """Compares a network's predictions with labels."""

    def __call__(
        self,
        dataset: SegmentationDataset,
        *,
        indices: Sequence[int] | None = None,
        see: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> ConfusionMatrix:
        """See `trainables.learning.evaluation.evaluate`."""


class NetworkError(RuntimeError):
    """A network of a run cannot be opened; the message says why."""


def open_network(network: RunNetwork, context: StageContext) -> Evaluate:
    """Open a network for predictions as its trial measured them.

    A trial that ends with files is represented by them, in their engine: int8 predicts other
    classes than its float network.

    Args:
        network: Network of the run.
        context: Device, threads and lock; files that were measured on a CPU run on the CPU.

    Raises:
        NetworkError: The checkpoint or the files are missing or damaged, or the engine is not
            installed.
    """
    if network.is_bundle:
        return _open_files(network, context)
    try:
        model = load_checkpoint(network.folder / CHECKPOINT)
    except CheckpointError as error:
        raise NetworkError(str(error)) from error

    def run(
        dataset: SegmentationDataset,
        *,
        indices: Sequence[int] | None = None,
        see: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> ConfusionMatrix:
        return evaluate(model, dataset, context, indices=indices, see=see)

    return run


def _open_files(network: RunNetwork, context: StageContext) -> Evaluate:
    try:
        description = read_bundle(network.folder)
        engine = ENGINES[description["engine"]["name"]]
        if not isinstance(engine, FileEngine):
            raise NetworkError(f"the engine {engine.name} reads no files")
        channels, height, width = description["input"]["shape"][1:]
        # With another host, the files of a GPU study were evaluated on a CPU.
        is_on_cpu = str(description["engine"].get("provider")).startswith("CPU")
        device = "cpu" if is_on_cpu else context.device
        settings = EngineSettings(device=device, num_threads=context.num_threads or 1)
        engine.check(settings)
        file = network.folder / description["file"]
        session = engine.load(file, (1, channels, height, width), settings)
    except (EngineError, OSError, ValueError, KeyError, TypeError) as error:
        raise NetworkError(f"its files cannot be run: {error}") from error

    def run(
        dataset: SegmentationDataset,
        *,
        indices: Sequence[int] | None = None,
        see: Callable[[int, Tensor, Tensor], None] | None = None,
    ) -> ConfusionMatrix:
        with context.device_lock.shared():
            return evaluate_predictions(
                session.run, dataset, (height, width), indices=indices, see=see
            )

    return run
