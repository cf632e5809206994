"""Stages that earlier sessions have finished, which the study only has to look up."""

from __future__ import annotations

from pathlib import Path

from trainables.artifacts.remote_stages import STAGES_FOLDER
from trainables.chain import Chain
from trainables.pipeline import build_stages
from trainables.pipeline_config import PipelineConfig
from trainables.stages import NetworkStage


class FinishedStages:
    """Looks up finished networks in a run's folder; measurements are short and count as new.

    Args:
        config: Configuration that the study's pipelines share.
        run_dir: Folder of the run.
        roots_only: Look up only the uncompressed networks, which costs nothing per pipeline.
    """

    def __init__(self, config: PipelineConfig, run_dir: Path, *, roots_only: bool) -> None:
        self._config = config
        self._stages_dir = run_dir / STAGES_FOLDER
        self._is_new = not (self._stages_dir.is_dir() and any(self._stages_dir.iterdir()))
        self._roots_only = roots_only
        self._known: dict[str, bool] = {}

    def __call__(self, chain: Chain) -> bool:
        """Whether the last stage of a chain was finished when this was first called for it."""
        if self._is_new or (self._roots_only and len(chain) > 1):
            return False
        name = repr(chain)
        if name not in self._known:
            stage = build_stages(self._config, chain)[-1]
            self._known[name] = (
                isinstance(stage, NetworkStage)
                and (self._stages_dir / f"{stage.name}-{stage.key}").is_dir()
            )
        return self._known[name]
