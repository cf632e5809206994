"""Stages that earlier sessions have finished, which the study only has to look up."""

from __future__ import annotations

from pathlib import Path

from trainables.chain import Chain
from trainables.pipeline import build_stages
from trainables.pipeline_config import PipelineConfig
from trainables.stages import NetworkStage


class FinishedStages:
    """Looks up finished networks in a run's folder; measurements are short and count as new.

    Args:
        config: Configuration that the study's pipelines share.
        stages_dir: Folder of the finished stages; it may be missing. None: there is none.
        roots_only: Look up only the uncompressed networks, which costs nothing per pipeline.
    """

    def __init__(
        self, config: PipelineConfig, stages_dir: Path | None, *, roots_only: bool
    ) -> None:
        self._config = config
        is_new = stages_dir is None or not (stages_dir.is_dir() and any(stages_dir.iterdir()))
        self._stages_dir = None if is_new else stages_dir
        self._roots_only = roots_only
        self._known: dict[str, bool] = {}

    def __call__(self, chain: Chain) -> bool:
        """Whether the last stage of a chain was finished when this was first called for it."""
        if self._stages_dir is None or (self._roots_only and len(chain) > 1):
            return False
        name = repr(chain)
        if name not in self._known:
            stage = build_stages(self._config, chain)[-1]
            self._known[name] = (
                isinstance(stage, NetworkStage)
                and (self._stages_dir / f"{stage.name}-{stage.key}").is_dir()
            )
        return self._known[name]
