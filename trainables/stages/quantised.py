"""The stage quantised: the deployed file in int8 or float32, measured in its engine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

from trainables.artifacts.store import Artifact, ArtifactStore
from trainables.context import Progress, StageContext
from trainables.pipeline_config import PipelineConfig
from trainables.ranges import options_of, setting
from trainables.settings import NoSettings, complete_options
from trainables.stages.deployed_file import DeployedFile, check_engine
from trainables.stages.latency import find_reference
from trainables.stages.stage import NetworkStage, Stage, StageInputs, Work


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8Settings:
    """Settings of the quantisation to int8.

    Attributes:
        method: Method: ptq quantises after training; qat first fine-tunes the network with
            rounding.
    """

    method: Literal["ptq", "qat"] = setting("ptq", ("ptq",))

    def __post_init__(self) -> None:
        if self.method not in ("ptq", "qat"):
            raise ValueError(f"method must be ptq or qat, got {self.method!r}")


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantisedSettings:
    """Precision of the file.

    Attributes:
        precision: Precision of the file: float32 or int8.
        numbers: Settings of the precision, by name.
    """

    precision: str = setting("int8", ("int8",))
    numbers: Mapping[str, Any] = options_of(
        "precision", {"float32": NoSettings, "int8": Int8Settings}
    )

    def __post_init__(self) -> None:
        complete_options(self)
        if len(self.numbers) > 1:
            raise ValueError(f"precision must be float32 or int8, got {self.precision!r}")


class QuantisedStage(Stage):
    """Writes the pipeline's current network as files, and measures their accuracy and latency.

    Args:
        network: Stage of the network.
        settings: Precision of the file.
        config: Configuration of the study.
    """

    name = "quantised"
    Settings: ClassVar[type[Any]] = QuantisedSettings
    follows = ("dense", "pruned", "distilled")
    reveals = ("miou", "iou/", "latency_ms", "latency_p95_ms", "latency_raw_ms", "reference_ms")
    schedule = "distil"
    is_exclusive = True
    evaluates = True

    def __init__(
        self, network: NetworkStage, settings: QuantisedSettings, config: PipelineConfig
    ) -> None:
        self.network = network
        self.settings = settings
        self.config = config

    @classmethod
    def check(cls, settings: QuantisedSettings, config: PipelineConfig, device: str) -> None:
        """Raise an error if the engine of the latency cannot measure files."""
        check_engine(config.latency, device)

    @classmethod
    def count_work(cls, settings: QuantisedSettings, config: PipelineConfig) -> Work:
        """Images of the evaluation in the engine, and steps where rounding is trained with."""
        numbers = settings.numbers.get("int8")
        num_steps = config.int8.num_steps if numbers and numbers.method == "qat" else 0
        return super().count_work(settings, config)._replace(num_steps=num_steps)

    @classmethod
    def set_length(cls, config: PipelineConfig, num_steps: int) -> PipelineConfig:
        """The configuration of a study whose training with rounding has so many steps."""
        return replace(config, int8=replace(config.int8, num_steps=num_steps))

    @classmethod
    def build(cls, settings: QuantisedSettings, inputs: StageInputs) -> QuantisedStage:
        """Build the last stage of one pipeline."""
        return cls(inputs.get_network(), settings, inputs.config)

    def obtain(self, store: ArtifactStore, context: StageContext) -> Artifact:
        """Reuse the files of the network, or write and measure them."""
        context.report(Progress(self.name, 0, 1))
        numbers = self.settings.numbers.get("int8")
        file = DeployedFile(
            self.network,
            self.config,
            context.device,
            method=None if numbers is None else numbers.method,
            reference=find_reference(self.config, context),
        )
        return file.obtain(store, context)

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return accuracy and latency of the file in its engine."""
        latencies = {
            "latency_ms": result["median_ms"],
            "latency_p95_ms": result["p95_ms"],
            "latency_raw_ms": result["raw_ms"],
            "reference_ms": result["reference_ms"],
        }
        classes = {f"iou/{name}": iou for name, iou in result["iou"].items()}
        found = {"miou": result["miou"], **classes, **latencies}
        return {name: value for name, value in found.items() if value is not None}
