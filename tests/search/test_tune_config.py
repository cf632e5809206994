"""What Tune is told, without a Ray."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.config import StudyConfig
from search.on_ray import session
from search.on_ray.allotment import TrialResources


@pytest.mark.parametrize("reuse_workers", [True, False])
def test_workers_are_used_again_unless_the_user_says_no(
    config: StudyConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reuse_workers: bool
) -> None:
    told: list[dict[str, Any]] = []

    def tuner(trainable: Any, **given: Any) -> SimpleNamespace:
        told.append(given)
        return SimpleNamespace(fit=lambda: None)

    monkeypatch.setattr(session.tune, "Tuner", tuner)
    resources = TrialResources(
        device="cpu", num_cpus=1, num_gpus=0, num_cpus_baseline=1, max_concurrent=2
    )
    config = replace(config, reuse_workers=reuse_workers)
    searcher: Any = None
    callback: Any = None
    session.run_tune(config, tmp_path, resources, searcher, callback)
    assert [given["tune_config"].reuse_actors for given in told] == [reuse_workers]


@pytest.mark.parametrize(("is_usable", "count"), [(True, 2), (False, 0)])
def test_a_local_session_has_the_gpus_that_pytorch_can_use(
    monkeypatch: pytest.MonkeyPatch, is_usable: bool, count: int
) -> None:
    told: dict[str, Any] = {}

    def init(address: str, **given: Any) -> SimpleNamespace:
        told.update(given)
        return SimpleNamespace(dashboard_url="")

    monkeypatch.setattr(session.ray, "init", init)
    monkeypatch.setattr(session.ray, "shutdown", lambda: None)
    monkeypatch.setattr(session.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(session.torch.cuda, "is_available", lambda: is_usable)
    with session.ray_session(None, dashboard=False):
        assert told["num_gpus"] == count
    assert session.count_own_devices()[1] == count
