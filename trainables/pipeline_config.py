"""Configuration that all pipelines of a study share: data, networks, trainings, latency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from models.engines import ENGINES, EngineName
from trainables.data_source import DataConfig
from trainables.learning.teacher_cache import TeacherLogitsConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig

STUDENT = "student"
"""Name of the network to compress if a study has only one."""

DEFAULT_STAGES = ("dense", "sparse", "pruned", "latency", "distilled")


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyConfig:
    """Settings of the latency measurement.

    Attributes:
        engine: Engine of the network, a key of `models.engines.ENGINES`. auto: onnxruntime on a
            CPU; on CUDA tensorrt if it is installed, else pytorch.
        host: Machine that will run the network, as in ssh (flag --latency-host user@device). Each
            file is copied and timed there. None: this machine. The environment variable
            SEGFRONT_SSH can replace the command "ssh".
        dtype: Dtype of the deployed network.
        num_threads: Number of CPU threads.
        batch_size: Number of images in a batch.
        fold_batchnorm: Fold BatchNorms into convolutions, as deployments do.
        resolution: Height and width of the images; None: the most frequent size of the validation
            images.
        confidence: Confidence level of the interval of the median, in 0..1.
        relative_margin: Half-width of that interval, relative to the median, at which a measurement
            ends.
        max_seconds: Time limit of one measurement.
        compensate_drift: Alternate each measurement with the uncompressed student, and convert
            latencies to the speed that the machine had when that was first measured; see
            `trainables.stages.reference`. Otherwise latencies are those of the clock.
    """

    engine: EngineName = "auto"
    host: Annotated[str | None, tyro.conf.arg(aliases=["--latency-host"])] = None
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    num_threads: int = 1
    batch_size: int = 1
    fold_batchnorm: bool = True
    resolution: tuple[int, int] | None = None
    confidence: float = 0.95
    relative_margin: float = 0.02
    max_seconds: float = 20.0
    compensate_drift: bool = True

    def __post_init__(self) -> None:
        with_files = [name for name, engine in ENGINES.items() if engine.reads_files]
        if self.host is not None and self.engine not in ("auto", *with_files):
            raise ValueError(
                f"latency.engine {self.engine} runs no files, so {self.host} cannot measure it: "
                f"choose {', '.join(with_files)}"
            )
        for name in ("num_threads", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"latency.{name} must be at least 1, got {getattr(self, name)}")
        if self.resolution is not None and min(self.resolution) < 1:
            raise ValueError(f"latency.resolution must be at least 1 x 1, got {self.resolution}")
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"latency.confidence must be in 0..1, both excluded; got {self.confidence}"
            )
        for name in ("relative_margin", "max_seconds"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"latency.{name} must be greater than 0, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class SensitivityConfig:
    """Length of the scan that says what an uncompressed network bears.

    Attributes:
        num_images: Number of training images.
        max_seconds: Time after which no more groups of channels are masked alone.
    """

    num_images: int = 4
    max_seconds: float = 15.0

    def __post_init__(self) -> None:
        if self.num_images < 1:
            raise ValueError(f"sensitivity.num_images must be at least 1, got {self.num_images}")
        if not (self.max_seconds >= 0 and math.isfinite(self.max_seconds)):
            raise ValueError(f"sensitivity.max_seconds must be at least 0, got {self.max_seconds}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8Config:
    """Settings of the quantisation to int8 in the stage `quantised`.

    Attributes:
        max_drop: Largest loss of mIoU against the float file, in 0..1 (flag --max-int8-drop). As
            few layers as necessary stay in float.
        num_images: Number of training images for the ranges of activations.
        num_ranking: Number of these images that are used to rank the layers by the harm of
            rounding.
        num_steps: Number of steps of the fine-tuning with rounding (method qat).
        lr: Peak learning rate of that fine-tuning, above 0.
        whole_images: Fine-tune on whole images, as the file will see them. False: on crops as large
            as in the other trainings, which takes less memory. For an accurate network, crops can
            cost more than the rounding.
    """

    max_drop: Annotated[float, tyro.conf.arg(aliases=["--max-int8-drop"])] = 0.01
    num_images: int = 32
    num_ranking: int = 2
    num_steps: int = 200
    lr: float = 1e-4
    whole_images: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 1:
            raise ValueError(f"int8.max_drop must be in 0..1, got {self.max_drop}")
        for name in ("num_images", "num_ranking", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"int8.{name} must be at least 1, got {getattr(self, name)}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"int8.lr must be greater than 0, got {self.lr}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """Configuration that all pipelines of a study share.

    Attributes:
        data: Data set.
        teacher: Teacher network, which is trained once.
        student: Network that is compressed.
        teacher_training: Training of the teacher.
        dense: Training of the student before compression.
        sparse: Training with L1 on the BatchNorm scales, starting from the dense weights.
        distil: Fine-tuning of the pruned student; its learning rate is part of the search.
        teacher_logits: Source of the teacher's logits and maps: a cache or the live teacher.
        latency: Latency measurement.
        sensitivity: Scan of the uncompressed networks.
        int8: Quantisation to int8.
        self_teaching: Use the uncompressed student as the teacher instead of another network (flag
            --teacher same).
        previous_teaches: Let the network before each pruning teach the fine-tuning after it, so
            that a network of a chain learns from the one before it (flag --teacher previous). Only
            with self_teaching.
        students: Further networks to compress, by name; `--space.student` selects among them.
        chain: Stages of a pipeline, root first: names of `trainables.stages.STAGES`.
        seed: Seed of initial weights, data order, augmentation and dropout.
    """

    data: DataConfig = field(default_factory=DataConfig)
    teacher: NetworkConfig = field(default_factory=lambda: NetworkConfig(name="deeplabv3plus"))
    student: NetworkConfig = field(default_factory=NetworkConfig)
    teacher_training: TrainConfig = field(default_factory=TrainConfig)
    dense: TrainConfig = field(default_factory=TrainConfig)
    sparse: TrainConfig = field(default_factory=TrainConfig)
    distil: TrainConfig = field(default_factory=TrainConfig)
    teacher_logits: TeacherLogitsConfig = field(default_factory=TeacherLogitsConfig)
    latency: LatencyConfig = field(default_factory=LatencyConfig)
    sensitivity: SensitivityConfig = field(default_factory=SensitivityConfig)
    int8: Int8Config = field(default_factory=Int8Config)
    self_teaching: bool = False
    previous_teaches: bool = False
    students: Mapping[str, NetworkConfig] = field(default_factory=dict)
    chain: tuple[str, ...] = DEFAULT_STAGES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.previous_teaches and not self.self_teaching:
            raise ValueError("previous_teaches needs self_teaching; --teacher previous sets both")

    def get_student(self, name: str = STUDENT) -> NetworkConfig:
        """Return the network that a pipeline compresses.

        Args:
            name: A key of `students`; default: the network `student`.

        Raises:
            ValueError: The name is unknown.
        """
        known = {STUDENT: self.student, **self.students}
        if name not in known:
            raise ValueError(f"student must be one of {', '.join(known)}; got {name!r}")
        return known[name]
