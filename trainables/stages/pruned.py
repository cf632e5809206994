"""Removal of channels, proven against masking."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from models.checkpoint import load_checkpoint
from models.cost import count_cost
from models.pruning import prune
from trainables.artifacts.store import Artifact
from trainables.context import StageContext
from trainables.data_source import DataConfig
from trainables.stages.learning import evaluate_and_save
from trainables.stages.stage import Stage


class PrunedStage(Stage):
    """Prunes the sparse network by its BatchNorm scales; counts and evaluates what is left.

    Args:
        parent: The sparse network.
        pruning_ratio: Fraction of channels removed, within 0..1.
        scope: Per layer (local) or over the network (global).
        round_to: Channel counts are kept at multiples of this; 1 for any count.
        data: Validation data.
    """

    name = "pruned"

    def __init__(
        self,
        parent: Stage,
        pruning_ratio: float,
        scope: Literal["local", "global"],
        round_to: int,
        data: DataConfig,
    ) -> None:
        self.parents = {"sparse": parent}
        self.pruning_ratio = pruning_ratio
        self.scope: Literal["local", "global"] = scope
        self.round_to = round_to
        self.data = data

    def content(self) -> dict[str, Any]:
        """Ratio, scope, rounding and the validation data."""
        return {
            "pruning_ratio": self.pruning_ratio,
            "scope": self.scope,
            "round_to": self.round_to,
            "val": self.data.open("val").fingerprint,
        }

    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Prune, prove, count, evaluate, save."""
        started = time.monotonic()
        context.activate()
        model = load_checkpoint(parents["sparse"].checkpoint)
        resolution = self.data.open("val").sample_size(0)
        unpruned = count_cost(model, (3, *resolution))
        record = prune(
            model,
            torch.zeros(1, 3, *self.data.augmentation.crop_size),
            pruning_ratio=self.pruning_ratio,
            scope=self.scope,
            round_to=self.round_to if self.round_to > 1 else None,
        )
        (folder / "pruning.json").write_text(record.to_json())
        cost = count_cost(model, (3, *resolution))
        settings = {key: value for key, value in self.content().items() if key != "val"}
        accuracy = evaluate_and_save(
            model, self.data, folder, context, name=self.name, metadata=settings
        )
        return {
            **accuracy,
            "num_params": cost.num_params,
            "macs": cost.macs,
            "num_params_unpruned": unpruned.num_params,
            "macs_unpruned": unpruned.macs,
            "seconds": time.monotonic() - started,
        }
