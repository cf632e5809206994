"""Which stages an earlier session has finished, so that they will only be found."""

from __future__ import annotations

from pathlib import Path

from trainables.artifacts.remote_stages import STAGES_FOLDER
from trainables.chain import Chain
from trainables.pipeline import build_stages
from trainables.pipeline_config import PipelineConfig
from trainables.stages import NetworkStage


class FinishedStages:
    """Looks for the networks of stages in a run's folder; measurements are short and count as new.

    Args:
        config: What the pipelines of the study share.
        run_dir: Folder of the run.
        roots_only: Look for the uncompressed networks alone, which takes no time per pipeline.
    """

    def __init__(self, config: PipelineConfig, run_dir: Path, *, roots_only: bool) -> None:
        self._config = config
        self._stages_dir = run_dir / STAGES_FOLDER
        self._is_new = not (self._stages_dir.is_dir() and any(self._stages_dir.iterdir()))
        self._roots_only = roots_only
        self._known: dict[str, bool] = {}

    def __call__(self, chain: Chain) -> bool:
        """Whether the last stage of a chain was there when it was asked about first."""
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
