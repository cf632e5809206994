"""One compression pipeline: what all pipelines of a study share, and what one of them chooses."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from trainables.data_source import DataConfig
from trainables.distillers import DistillerName
from trainables.learning.teacher_cache import TeacherLogitsConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LatencyConfig:
    """How latency is measured.

    Attributes:
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

    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    num_threads: int = 1
    batch_size: int = 1
    fold_batchnorm: bool = True
    resolution: tuple[int, int] | None = None
    confidence: float = 0.95
    relative_margin: float = 0.02
    max_seconds: float = 20.0
    compensate_drift: bool = True


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
    seed: int = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class PipelineSettings:
    """What one pipeline chooses. The defaults are those of the dual-branch paper.

    Attributes:
        sparsity_lambda: Factor of the L1 norm of the BatchNorm scales, at least 0.
        pruning_ratio: Fraction of channels removed, within 0..1.
        scope: Whether that fraction holds in every layer (local) or over the network (global).
        round_to: Channel counts are kept at multiples of this.
        distiller: Key of `trainables.distillers.DISTILLERS`.
        temperature: T of the distillation.
        alpha: Weight of TCKD.
        beta: Weight of NCKD.
        eta: Weight of the cross-entropy.
        lr: Peak learning rate of the fine-tuning.
    """

    sparsity_lambda: float = 1e-5
    pruning_ratio: float = 0.5
    scope: Literal["local", "global"] = "local"
    round_to: int = 1
    distiller: DistillerName = "dkd"
    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    eta: float = 1.0
    lr: float = 0.01

    def __post_init__(self) -> None:
        if not (self.sparsity_lambda >= 0 and math.isfinite(self.sparsity_lambda)):
            raise ValueError(f"sparsity_lambda must be at least 0, got {self.sparsity_lambda}")
        if not 0 < self.pruning_ratio < 1:
            raise ValueError(f"pruning_ratio must lie within 0..1, got {self.pruning_ratio}")
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1, got {self.round_to}")
        if not (self.lr > 0 and math.isfinite(self.lr)):
            raise ValueError(f"lr must be greater than 0, got {self.lr}")
