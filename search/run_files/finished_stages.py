"""Stages that earlier sessions have finished or begun, which the study looks up or continues."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from trainables.artifacts.artifact_files import RESULT_FILE
from trainables.chain import Chain
from trainables.pipeline import build_stages
from trainables.pipeline_config import PipelineConfig
from trainables.stages import NetworkStage, Stage

PARTIAL = ".partial"


class FinishedStages:
    """Looks up networks in a run's folder and storage; measurements are short and count as new.

    Args:
        config: Configuration that the study's pipelines share.
        stages_dir: Folder of the finished stages; it may be missing. None: there is none.
        stored: Names of the files in the storage of the stages, from `RemoteFolder.list`.
        roots_only: Look up only the uncompressed networks, which costs nothing per pipeline.
    """

    def __init__(
        self,
        config: PipelineConfig,
        stages_dir: Path | None,
        stored: Collection[str] = (),
        *,
        roots_only: bool,
    ) -> None:
        self._config = config
        self._stages_dir = stages_dir
        self._roots_only = roots_only
        local = [] if stages_dir is None else [path.name for path in stages_dir.glob("*")]
        there = [name.split("/") for name in stored]
        self._stored = {folder for folder, *file in there if file == [RESULT_FILE]}
        folders = [*local, *(folder for folder, *_ in there)]
        self._begun = {name.removesuffix(PARTIAL) for name in folders if name.endswith(PARTIAL)}
        self._is_new = not folders
        self._known: dict[str, tuple[bool, bool]] = {}

    def __call__(self, chain: Chain) -> bool:
        """Whether the last stage of a chain was finished when this was first called for it."""
        return self._look_up(chain)[0]

    def has_begun(self, chain: Chain) -> bool:
        """Whether an earlier session has begun, but not finished, the last stage of a chain."""
        is_finished, has_begun = self._look_up(chain)
        return has_begun and not is_finished

    def _look_up(self, chain: Chain) -> tuple[bool, bool]:
        if self._is_new or (self._roots_only and len(chain) > 1):
            return False, False
        name = repr(chain)
        if name not in self._known:
            self._known[name] = self._find(build_stages(self._config, chain)[-1])
        return self._known[name]

    def _find(self, stage: Stage) -> tuple[bool, bool]:
        if not isinstance(stage, NetworkStage):
            return False, False
        folder = f"{stage.name}-{stage.key}"
        is_here = self._stages_dir is not None and (self._stages_dir / folder).is_dir()
        return is_here or folder in self._stored, folder in self._begun
