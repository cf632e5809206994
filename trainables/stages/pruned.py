"""The stage pruned: removal of channels, checked against masking; may be repeated."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from models import SegmentationNetwork
from models.channels.importance import IMPORTANCES
from models.checkpoint import load_checkpoint
from models.cost import count_cost
from models.pruning import SCOPES, PruningRecord, prune
from trainables.artifacts.store import Artifact
from trainables.context import StageContext, within_threads
from trainables.data import TrainingStream
from trainables.data_source import DataConfig
from trainables.learning.taylor import score_by_taylor
from trainables.objective import Objective
from trainables.ranges import FloatRange, setting
from trainables.stages.computation import Computation
from trainables.stages.learning import evaluate_and_save
from trainables.stages.scan import SensitivityScan, read_scan
from trainables.stages.stage import NetworkStage, StageInputs, has_training, iterate_origins


@dataclass(frozen=True, kw_only=True, slots=True)
class PrunedSettings:
    """Settings of the pruning.

    Attributes:
        pruning_ratio: Fraction p of the network's original channels to remove, in 0..1, both
            excluded.
        scope: Whether that fraction applies to every layer (local), to the whole network (global),
            to the whole network with a preference for channels that save many multiply-accumulates
            (global_macs), or to the layers where a scan finds the least loss of accuracy
            (sensitivity). The last two weight channels by multiply-accumulates.
        round_to: Multiple that channel counts are rounded to; 1 for any count.
        importance: Ranking of the channels: by BatchNorm scales (bn_scale), by the L2 norm of their
            weights (group_l2), or by the estimated change of the loss on training images (taylor).
    """

    pruning_ratio: float = setting(0.5, FloatRange(low=0.3, high=0.7, step=0.1), symbol="p")
    scope: Literal["local", "global", "global_macs", "sensitivity"] = setting(
        "local", ("local", "global")
    )
    round_to: int = setting(1, (1,), symbol="round")
    importance: str = setting("bn_scale", ("bn_scale",))

    def __post_init__(self) -> None:
        if not 0 < self.pruning_ratio < 1:
            raise ValueError(
                f"pruning_ratio must lie within 0..1, both excluded; got {self.pruning_ratio}"
            )
        if self.scope not in SCOPES:
            raise ValueError(f"scope must be one of {', '.join(SCOPES)}; got {self.scope!r}")
        if self.importance not in IMPORTANCES:
            known = ", ".join(IMPORTANCES)
            raise ValueError(f"importance must be one of {known}; got {self.importance!r}")
        if self.round_to < 1:
            raise ValueError(f"round_to must be at least 1, got {self.round_to}")


class PrunedStage(NetworkStage):
    """Prunes a network; counts the costs of the result and evaluates it.

    The network may have been pruned before. The ratio refers to the original channels, so it must
    exceed the earlier one: in a network that has lost 30 % of them, a ratio of 0.5 removes another
    20 of the remaining 70 %. What the earlier pruning removed too much or too little by rounding,
    this one corrects.

    Args:
        network: Stage of the network: sparse, or already distilled.
        settings: Settings of the pruning.
        data: Validation data, and the training images for measured scores.
        removed: Fraction of the original channels that were removed before.

    Raises:
        ValueError: The ratio is not above the fraction that was removed before.
    """

    name = "pruned"
    version = 4  # layers that a single channel weights are pruned too, and those of InstanceNorms
    Settings: ClassVar[type[Any]] = PrunedSettings
    follows = ("dense", "sparse", "distilled")
    reveals = ("miou_pruned", "num_params", "macs")
    objectives = (
        Objective("num_params", "minimize", "", "Parameters"),
        Objective("macs", "minimize", "", "MACs"),
    )
    changes_structure = True
    evaluates = True
    rising_setting = "pruning_ratio"
    kept_settings = ("scope", "round_to", "importance")
    examined_by = "sensitivity"

    def __init__(
        self,
        network: NetworkStage,
        settings: PrunedSettings,
        data: DataConfig,
        removed: float = 0.0,
    ) -> None:
        if not settings.pruning_ratio > removed:
            raise ValueError(
                f"pruning_ratio must be above {removed:g}, which was removed before; "
                f"got {settings.pruning_ratio:g}"
            )
        self.origin = network
        self.parents: dict[str, Computation] = {"network": network}
        self.unpruned = network
        for stage in iterate_origins(network):
            if isinstance(stage, PrunedStage) and stage.origin is not None:
                self.unpruned = stage.origin
        if settings.scope == "sensitivity":
            self.parents["scan"] = SensitivityScan(self.unpruned, data)
        elif removed:
            self.parents["unpruned"] = self.unpruned
        self.settings = settings
        self.data = data
        self.removed = removed

    @classmethod
    def build(cls, settings: PrunedSettings, inputs: StageInputs) -> PrunedStage:
        """Build the pruning of one pipeline."""
        network = inputs.get_network()
        before = next((s for s in iterate_origins(network) if isinstance(s, PrunedStage)), None)
        removed = 0.0 if before is None else before.settings.pruning_ratio
        return cls(network, settings, inputs.config.data, removed)

    @classmethod
    def describe_structure(cls, settings: PrunedSettings) -> str | None:
        """Ratio and rounding of local scope, under which every layer loses the same share."""
        if settings.scope != "local":
            return None
        return f"p {settings.pruning_ratio:g} round {settings.round_to}"

    def sketch(self) -> SegmentationNetwork:
        """Prune the structure of the network before."""
        if self.origin is None or self.settings.scope != "local":
            raise ValueError(
                f"scope {self.settings.scope} lets the weights decide the widths of the layers"
            )
        model = self.origin.sketch()
        self._prune(model, original=self.unpruned.sketch() if self.removed else None)
        return model

    def _prune(self, model: SegmentationNetwork, **scores: Any) -> PruningRecord:
        """Prune a network in place; keywords as for `models.pruning.prune`."""
        return prune(
            model,
            torch.zeros(1, 3, *self.data.augmentation.crop_size),
            pruning_ratio=self.settings.pruning_ratio,
            scope=self.settings.scope,
            round_to=self.settings.round_to if self.settings.round_to > 1 else None,
            **scores,
        )

    def content(self) -> dict[str, Any]:
        """Return ratio, scope, rounding, the fraction removed before, and the data."""
        content = {
            **asdict(self.settings),
            "removed": self.removed,
            "val": self.data.open("val").fingerprint,
        }
        if self.settings.importance == "taylor":
            content["train"] = self.data.open("train").fingerprint
            if not has_training(self):
                content["augmentation"] = asdict(self.data.augmentation)
        return content

    @within_threads
    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Prune, check, count costs, evaluate and save."""
        started = time.monotonic()
        model = load_checkpoint(parents["network"].checkpoint)
        resolution = self.data.open("val").common_size
        unpruned = count_cost(model, (3, *resolution))
        is_scanned, is_further = "scan" in parents, "unpruned" in parents
        measured = None
        if self.settings.importance == "taylor":
            images = self.data.open_cached("train", context.cache_dir)
            stream = TrainingStream(images, self.data.augmentation, seed=0)
            measured = score_by_taylor(model, stream, context)
            model = model.cpu()
        record = self._prune(
            model,
            importance=self.settings.importance,
            measured=measured,
            sensitivity=read_scan(parents["scan"]) if is_scanned else None,
            original=load_checkpoint(parents["unpruned"].checkpoint) if is_further else None,
        )
        (folder / "pruning.json").write_text(record.to_json())
        cost = count_cost(model, (3, *resolution))
        accuracy = evaluate_and_save(
            model, self.data, folder, context, name=self.name, metadata=asdict(self.settings)
        )
        return {
            **accuracy,
            "num_params": cost.num_params,
            "macs": cost.macs,
            "num_params_unpruned": unpruned.num_params,
            "macs_unpruned": unpruned.macs,
            "warnings": [
                *describe_unprunable(record.unprunable),
                *(parents["scan"].result["warnings"] if is_scanned else ()),
            ],
            "seconds": time.monotonic() - started,
        }

    def read_metrics(self, result: Mapping[str, Any]) -> dict[str, float]:
        """Return the cost of the pruned network, and its accuracy before fine-tuning."""
        return {
            "miou_pruned": result["miou"],
            "num_params": result["num_params"],
            "macs": result["macs"],
        }


def describe_unprunable(layers: Mapping[str, str]) -> list[str]:
    """Describe the layers that were left whole, one sentence per reason.

    Args:
        layers: Reason by layer name.
    """
    by_reason: dict[str, list[str]] = {}
    for name, reason in layers.items():
        by_reason.setdefault(reason, []).append(name)
    return [
        f"pruning left {', '.join(names)} whole: {reason}" for reason, names in by_reason.items()
    ]
