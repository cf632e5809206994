"""Which networks earlier sessions have finished or begun, here and in storage."""

from __future__ import annotations

from pathlib import Path

import pytest

from search.config import StudyConfig
from search.run_files.finished_stages import FinishedStages
from trainables.chain import make_chain
from trainables.pipeline import build_stages

CHAIN = make_chain(pruning_ratio=0.5)


@pytest.mark.parametrize("is_stored", [False, True])
@pytest.mark.parametrize(
    ("suffix", "file", "found"),
    [
        ("", "result.json", (True, False)),
        (".partial", "state.pt", (False, True)),
        (".damaged-1", "result.json", (False, False)),
    ],
)
def test_networks_are_found_here_and_in_storage(
    config: StudyConfig,
    tmp_path: Path,
    is_stored: bool,
    suffix: str,
    file: str,
    found: tuple[bool, bool],
) -> None:
    stage = build_stages(config.pipeline, CHAIN)[1]
    folder = f"{stage.name}-{stage.key}{suffix}"
    if not is_stored:
        (tmp_path / folder).mkdir()
    stored = [f"{folder}/{file}"] if is_stored else []
    stages = FinishedStages(config.pipeline, tmp_path, stored, roots_only=False)
    assert (stages(CHAIN[:2]), stages.has_begun(CHAIN[:2])) == found
    assert not stages(CHAIN[:1])
    assert not stages.has_begun(CHAIN)
    roots = FinishedStages(config.pipeline, tmp_path, stored, roots_only=True)
    assert (roots(CHAIN[:2]), roots.has_begun(CHAIN[:2])) == (False, False)


def test_an_upload_without_its_result_is_not_complete(config: StudyConfig, tmp_path: Path) -> None:
    stage = build_stages(config.pipeline, CHAIN)[0]
    stored = [f"{stage.name}-{stage.key}/checkpoint.safetensors"]
    assert not FinishedStages(config.pipeline, tmp_path, stored, roots_only=False)(CHAIN[:1])
