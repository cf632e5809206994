"""The stage teacher: training of the teacher, which all pipelines of a study share."""

from __future__ import annotations

from typing import Any, ClassVar

from trainables.network_config import NetworkConfig
from trainables.pipeline_config import PipelineConfig
from trainables.settings import NoSettings
from trainables.stages.dense import DenseStage
from trainables.stages.given import GivenStage
from trainables.stages.learning import make_learning
from trainables.stages.stage import NetworkStage, StageInputs


class TeacherStage(DenseStage):
    """Trains the teacher in the same way as `DenseStage` trains a student."""

    name = "teacher"
    schedule = "teacher_training"
    Settings: ClassVar[type[Any]] = NoSettings

    @classmethod
    def choose_network(cls, settings: Any, config: PipelineConfig) -> NetworkConfig:
        """The study's teacher."""
        return config.teacher

    @classmethod
    def build(cls, settings: Any, inputs: StageInputs) -> NetworkStage:
        """Build the stage of the study's teacher: a training, or the given weights."""
        config = inputs.config
        if config.teacher.weights is not None:
            return GivenStage(config.teacher, config.data, cls.name)
        return cls(config.teacher, make_learning(config, config.teacher_training))
