"""The contract of a stage: what the search must know of it, and how it is built."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from trainables.artifacts.store import Artifact, ArtifactStore
from trainables.context import StageContext
from trainables.pipeline_config import PipelineConfig
from trainables.settings import NoSettings
from trainables.stages.computation import Computation


@dataclass(frozen=True, kw_only=True, slots=True)
class StageInputs:
    """What a stage is built from, besides its own settings.

    Attributes:
        config: What all pipelines of the study share.
        network: Stage whose network this one goes on from; None for a root.
        teacher: Stage of the teacher's network; None while the teacher itself is built.
        seed: Seed of this stage's training; None: that of the study.
    """

    config: PipelineConfig
    network: NetworkStage | None = None
    teacher: NetworkStage | None = None
    seed: int | None = None

    def get_network(self) -> NetworkStage:
        """Stage of the network to go on from.

        Raises:
            ValueError: There is none.
        """
        if self.network is None:
            raise ValueError("a pipeline must begin with a root, such as dense")
        return self.network


class Stage(ABC):
    """A step of a pipeline. Each stage is one file, which declares all that the others rely on.

    `trainables.stages.STAGES` lists the stages. The search iterates over what is declared here and
    knows no stage by its name.

    Attributes:
        name: Name in flags, tables and the store.
        Settings: What a pipeline chooses for this stage, a frozen dataclass whose fields are
            declared with `trainables.ranges.setting`.
        follows: Names of the stages whose network it can go on from; empty for a root.
        reveals: Metrics that are known once it is done; a name that ends in "/" stands for all that
            begin so.
        changes_structure: Whether its network has other layer widths or another number format, so
            that nothing measured before holds any more.
        trains: Whether it trains, so that sharing it saves much.
        can_pause: Whether it can pause at a share of its work (`advance`).
        is_exclusive: Whether it needs its device to itself, so that only one runs at a time.
        rising_setting: Setting that must be higher each time the stage is applied to a network that
            it has been applied to before; "": it cannot be.
        kept_settings: Settings that stay as they are then.
    """

    name: str
    Settings: ClassVar[type[Any]] = NoSettings
    follows: ClassVar[tuple[str, ...]] = ()
    reveals: ClassVar[tuple[str, ...]] = ()
    changes_structure: ClassVar[bool] = False
    trains: ClassVar[bool] = False
    can_pause: ClassVar[bool] = False
    is_exclusive: ClassVar[bool] = False
    rising_setting: ClassVar[str] = ""
    kept_settings: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def needs_teacher(cls, settings: Any) -> bool:
        """Whether it reads the teacher's network, given its settings."""
        return False

    @classmethod
    def check(cls, settings: Any, config: PipelineConfig) -> None:
        """See whether the study's data suit the stage, before anything is trained.

        Args:
            settings: An instance of `Settings`.
            config: What all pipelines of the study share.

        Raises:
            ValueError: They do not; says why and what would.
        """
        return  # most stages take any data

    @classmethod
    @abstractmethod
    def build(cls, settings: Any, inputs: StageInputs) -> Stage:
        """Build the stage of one pipeline.

        Args:
            settings: An instance of `Settings`.
            inputs: The study's configuration, and the stages before this one.
        """

    @abstractmethod
    def obtain(self, store: ArtifactStore, context: StageContext) -> Artifact:
        """Find the artefact or compute it, what it needs first; see `Computation.obtain`."""

    @abstractmethod
    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Select the metrics that the stage reveals.

        Args:
            result: Of its artefact.
        """


class NetworkStage(Computation, Stage):
    """A stage whose artefact is a network; the others measure the network before them.

    Attributes:
        origin: Stage whose network this one went on from; None for a root.
    """

    origin: NetworkStage | None = None


def iterate_origins(stage: NetworkStage) -> Iterator[NetworkStage]:
    """Yield a stage, the one whose network it went on from, and so on to the root."""
    origin: NetworkStage | None = stage
    while origin is not None:
        yield origin
        origin = origin.origin
