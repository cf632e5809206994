"""The interface of stages: what the search must know of a stage, and how it is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

from models import SegmentationNetwork
from trainables.artifacts.store import Artifact, ArtifactStore
from trainables.context import StageContext
from trainables.objective import Objective
from trainables.pipeline_config import PipelineConfig
from trainables.settings import NoSettings
from trainables.stages.computation import Computation


@dataclass(frozen=True, kw_only=True, slots=True)
class StageInputs:
    """The inputs of a stage, besides its own settings.

    Attributes:
        config: Configuration of the study.
        network: Stage whose network this one continues from; None for a root.
        teacher: Stage of the teacher's network; None while the teacher itself is built.
        seed: Seed of this stage's training; None: that of the study.
    """

    config: PipelineConfig
    network: NetworkStage | None = None
    teacher: NetworkStage | None = None
    seed: int | None = None

    def get_network(self) -> NetworkStage:
        """Return the stage of the network to continue from.

        Raises:
            ValueError: There is no network.
        """
        if self.network is None:
            raise ValueError("a pipeline must begin with a root, such as dense")
        return self.network


class Work(NamedTuple):
    """What a stage has to do, so that its seconds can be told from a few timed units.

    Attributes:
        num_steps: Steps of its training.
        num_images: Images of its evaluation.
        longest_seconds: Longest time of its measurement; 0 where it measures nothing by the clock.
    """

    num_steps: int = 0
    num_images: int = 0
    longest_seconds: float = 0.0


class Stage(ABC):
    """A step of a pipeline; one file, which declares everything that others rely on.

    `trainables.stages.STAGES` lists the stages. The search iterates over what is declared here and
    does not know any stage by name.

    Attributes:
        name: Name in flags, tables and the store.
        Settings: Settings of the stage, a frozen dataclass whose fields are declared with
            `trainables.ranges.setting`.
        follows: Names of the stages whose network it can continue from; empty for a root.
        reveals: Metrics that are known after the stage; a name that ends in "/" stands for all
            metrics with that prefix.
        objectives: Those of these metrics that a study can optimise; one stage declares each.
        changes_structure: Whether it changes the layer widths or the number format of the network,
            so that earlier measurements are no longer valid.
        trains: Whether it trains, so that sharing it saves much time.
        schedule: Field of `PipelineConfig` with the schedule of its training; "" if it has none.
        evaluates: Whether it predicts every validation image.
        can_pause: Whether it can pause after a fraction of its work (`advance`).
        is_exclusive: Whether it needs the device for itself, so that only one runs at a time.
        rising_setting: Setting that must be higher each time the stage is applied again to the same
            network; "": it cannot be applied again.
        kept_settings: Settings that must stay the same when it is applied again.
        examined_by: Name of the stage that examines every uncompressed student of a study whose
            pipelines contain this one; "": there is none.
        prepares_from: What it needs for the work that it can do before the stages before it have
            run (`prepare`): the structure of the network, if the settings decide it, or the
            teacher; "": there is no such work.
    """

    name: str
    Settings: ClassVar[type[Any]] = NoSettings
    follows: ClassVar[tuple[str, ...]] = ()
    reveals: ClassVar[tuple[str, ...]] = ()
    objectives: ClassVar[tuple[Objective, ...]] = ()
    changes_structure: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    schedule: ClassVar[str] = ""
    evaluates: ClassVar[bool] = False
    can_pause: ClassVar[bool] = False
    is_exclusive: ClassVar[bool] = False
    rising_setting: ClassVar[str] = ""
    kept_settings: ClassVar[tuple[str, ...]] = ()
    examined_by: ClassVar[str] = ""
    prepares_from: ClassVar[Literal["", "structure", "teacher"]] = ""

    @classmethod
    def needs_teacher(cls, settings: Any) -> bool:
        """Return whether it reads the teacher's network, given its settings."""
        return False

    @classmethod
    def describe_structure(cls, settings: Any) -> str | None:
        """Describe what the stage makes of the network's structure.

        Args:
            settings: An instance of `Settings`.

        Returns:
            Equal texts for equal structures, "" if it keeps the structure, None if the result
            depends on the weights.
        """
        return None if cls.changes_structure else ""

    @classmethod
    def check(cls, settings: Any, config: PipelineConfig, device: str) -> None:
        """Check that the study's data and engine fit the stage, before anything is trained.

        Args:
            settings: An instance of `Settings`.
            config: Configuration of the study.
            device: Torch device of the study.

        Raises:
            ValueError: They do not fit; the message names the reason and the remedy.
        """
        return  # most stages accept any

    @classmethod
    def count_work(cls, settings: Any, config: PipelineConfig) -> Work:
        """Count what the stage has to do.

        Args:
            settings: An instance of `Settings`.
            config: What all pipelines of the study share.
        """
        return Work(
            num_steps=getattr(config, cls.schedule).num_steps if cls.schedule else 0,
            num_images=len(config.data.open("val")) if cls.evaluates else 0,
        )

    @classmethod
    def set_length(cls, config: PipelineConfig, num_steps: int) -> PipelineConfig:
        """The configuration of a study whose stages of this kind train for so many steps.

        Args:
            config: Of the study as it is.
            num_steps: At least 1; without effect on a stage that does not train.
        """
        if not cls.schedule:
            return config
        training = replace(getattr(config, cls.schedule), num_steps=num_steps)
        changes: dict[str, Any] = {cls.schedule: training}
        return replace(config, **changes)

    @classmethod
    @abstractmethod
    def build(cls, settings: Any, inputs: StageInputs) -> Stage:
        """Build the stage of one pipeline.

        Args:
            settings: An instance of `Settings`.
            inputs: Configuration of the study, and the stages before this one.
        """

    @abstractmethod
    def obtain(self, store: ArtifactStore, context: StageContext) -> Artifact:
        """Reuse the artefact or compute it, after its inputs; see `Computation.obtain`."""

    def prepare(self, store: ArtifactStore, context: StageContext) -> None:
        """Do the work that needs no stage before this one, for stages with `prepares_from`.

        Args:
            store: Store of the artefacts.
            context: Machine, folders and progress report.
        """
        raise NotImplementedError(f"stage {self.name} can do nothing ahead")

    @abstractmethod
    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Select the metrics that the stage reveals.

        Args:
            result: Result in the stage's artefact.
        """


class NetworkStage(Computation, Stage):
    """A stage whose artefact is a network; other stages measure the pipeline's current network.

    Attributes:
        origin: Stage whose network this one continues from; None for a root.
    """

    origin: NetworkStage | None = None

    def sketch(self) -> SegmentationNetwork:
        """Build the network's structure without its trained weights.

        Raises:
            ValueError: The structure depends on the weights (`describe_structure`).
        """
        if self.origin is None or self.changes_structure:
            raise ValueError(f"the structure of the network of stage {self.name} is not known yet")
        return self.origin.sketch()


def has_training(stage: NetworkStage) -> bool:
    """Whether a network was trained here; its key then contains the augmentation."""
    return any(origin.trains for origin in iterate_origins(stage))


def iterate_origins(stage: NetworkStage) -> Iterator[NetworkStage]:
    """Yield a stage, the stage that it continues from, and so on to the root."""
    origin: NetworkStage | None = stage
    while origin is not None:
        yield origin
        origin = origin.origin
