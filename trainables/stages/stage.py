"""The interface of stages: what the search must know of a stage, and how it is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

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
        can_pause: Whether it can pause after a fraction of its work (`advance`).
        is_exclusive: Whether it needs the device for itself, so that only one runs at a time.
        rising_setting: Setting that must be higher each time the stage is applied again to the same
            network; "": it cannot be applied again.
        kept_settings: Settings that must stay the same when it is applied again.
    """

    name: str
    Settings: ClassVar[type[Any]] = NoSettings
    follows: ClassVar[tuple[str, ...]] = ()
    reveals: ClassVar[tuple[str, ...]] = ()
    objectives: ClassVar[tuple[Objective, ...]] = ()
    changes_structure: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    schedule: ClassVar[str] = ""
    can_pause: ClassVar[bool] = False
    is_exclusive: ClassVar[bool] = False
    rising_setting: ClassVar[str] = ""
    kept_settings: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def needs_teacher(cls, settings: Any) -> bool:
        """Return whether it reads the teacher's network, given its settings."""
        return False

    @classmethod
    def check(cls, settings: Any, config: PipelineConfig) -> None:
        """Check that the study's data fit the stage, before anything is trained.

        Args:
            settings: An instance of `Settings`.
            config: Configuration of the study.

        Raises:
            ValueError: The data do not fit; the message names the reason and the remedy.
        """
        return  # most stages accept any data

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


def iterate_origins(stage: NetworkStage) -> Iterator[NetworkStage]:
    """Yield a stage, the stage that it continues from, and so on to the root."""
    origin: NetworkStage | None = stage
    while origin is not None:
        yield origin
        origin = origin.origin
