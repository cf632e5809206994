"""What all pipelines of a study share: data, networks, trainings, latency."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Literal

import tyro

from trainables.data_source import DataConfig
from trainables.learning.teacher_cache import TeacherLogitsConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig

STUDENT = "student"
"""Name of the network to compress where a study has a single one."""

DEFAULT_STAGES = ("dense", "sparse", "pruned", "latency", "distilled")


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyConfig:
    """How latency is measured.

    Attributes:
        engine: What runs the network, a key of `models.engines.ENGINES`; auto: onnxruntime on a
            CPU, on CUDA tensorrt where that is installed, else pytorch.
        host: Machine that will run the network, as ssh takes it (flag --latency-host user@device):
            each file is copied and timed there. None: latency is that of this machine. The
            environment's SEGFRONT_SSH may hold another command than "ssh".
        dtype: Numbers of the deployed network.
        num_threads: CPU threads.
        batch_size: Images at once.
        fold_batchnorm: Fold BatchNorms into convolutions, as every deployment does.
        resolution: Height and width; None: that of the first validation image.
        confidence: Level of the interval of the median, within 0..1.
        relative_margin: Half-width of that interval, relative to the median, that ends a
            measurement.
        max_seconds: Longest time of one measurement.
        compensate_drift: Measure in turns with the uncompressed student, and state latencies at the
            speed that the machine had when that was first measured; see
            `trainables.stages.reference`. Without it they are what the clock shows.
    """

    engine: Literal["auto", "onnxruntime", "openvino", "tensorrt", "pytorch", "torch_compile"] = (
        "auto"
    )
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
        if self.host is not None and self.engine in ("pytorch", "torch_compile"):
            raise ValueError(
                f"latency.engine {self.engine} leaves no file to measure on {self.host}: choose "
                "onnxruntime, openvino or tensorrt"
            )
        for name in ("num_threads", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"latency.{name} must be at least 1, got {getattr(self, name)}")
        if self.resolution is not None and min(self.resolution) < 1:
            raise ValueError(f"latency.resolution must be at least 1 x 1, got {self.resolution}")
        if not 0 < self.confidence < 1:
            raise ValueError(
                f"latency.confidence must lie within 0..1, both excluded; got {self.confidence}"
            )
        for name in ("relative_margin", "max_seconds"):
            value = getattr(self, name)
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"latency.{name} must be greater than 0, got {value}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Int8Config:
    """How networks are quantised to int8, in the stage `quantised`.

    Attributes:
        max_drop: Largest loss of mIoU against the float file, in 0..1 (flag --max-int8-drop).
            Layers that cost more stay in float, as few as it takes.
        num_images: Training images from which the ranges of activations are taken.
        num_ranking: How many of them are used to rank the layers by the harm of rounding them.
        num_steps: Steps of the fine-tuning with rounding (method qat).
        lr: Its peak learning rate, above 0.
    """

    max_drop: Annotated[float, tyro.conf.arg(aliases=["--max-int8-drop"])] = 0.01
    num_images: int = 32
    num_ranking: int = 2
    num_steps: int = 200
    lr: float = 1e-4

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop <= 1:
            raise ValueError(f"int8.max_drop must lie within 0..1, got {self.max_drop}")
        for name in ("num_images", "num_ranking", "num_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"int8.{name} must be at least 1, got {getattr(self, name)}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"int8.lr must be greater than 0, got {self.lr}")


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineConfig:
    """What all pipelines of a study share.

    Attributes:
        data: Data set.
        teacher: Network that is trained once and teaches.
        student: Network that is compressed.
        teacher_training: Training of the teacher.
        dense: Training of the student before anything is taken away.
        sparse: Training with L1 on the BatchNorm scales, starting from the dense weights.
        distil: Fine-tuning of the pruned student; its learning rate is part of the search.
        teacher_logits: Whether the student is taught from a cache of the teacher's logits or by the
            teacher itself.
        latency: How latency is measured.
        int8: How networks are quantised.
        self_teaching: Let the uncompressed student teach, instead of a teacher of its own
            (flag --teacher same).
        students: Further networks to compress, by a name for each; `--space.student` chooses.
        chain: Stages of a pipeline, root first: names of `trainables.stages.STAGES`.
        seed: Seed of first weights, data order, augmentation and dropout.
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
    int8: Int8Config = field(default_factory=Int8Config)
    self_teaching: bool = False
    students: Mapping[str, NetworkConfig] = field(default_factory=dict)
    chain: tuple[str, ...] = DEFAULT_STAGES
    seed: int = 0

    def get_student(self, name: str = STUDENT) -> NetworkConfig:
        """Network that a pipeline compresses.

        Args:
            name: Key of `students`, or the default for `student`.

        Raises:
            ValueError: An unknown name.
        """
        known = {STUDENT: self.student, **self.students}
        if name not in known:
            raise ValueError(f"student must be one of {', '.join(known)}; got {name!r}")
        return known[name]
