"""With --keep front, networks of the front stay, and nothing that they need goes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from search.config import StudyConfig
from search.pipelines.records import TrialRecord
from search.run_files.retention import keep_front
from trainables.artifacts.remote_folder import RemoteFolder
from trainables.artifacts.remote_stages import RemoteStages
from trainables.artifacts.store import ArtifactStore
from trainables.chain import make_settings

# miou, num_params, stages: 0, 1 and 2 are the front, 2 equals 1; 3 is dominated; 4 was stopped.
TRIALS = [
    (0.5, 300.0, "dense-1 sparse-1 pruned-1 distilled-0"),
    (0.4, 200.0, "dense-1 sparse-1 pruned-2 distilled-1"),
    (0.4, 200.0, "dense-1 sparse-2 pruned-3 distilled-2"),
    (0.3, 300.0, "dense-1 sparse-3 pruned-4 distilled-3"),
    (None, 200.0, "dense-1 sparse-2 pruned-5"),
    (0.2, 400.0, "dense-2 sparse-4 pruned-6 distilled-5"),  # of another student
]
OTHERS = {"teacher-1", "latency-1", "distilled-of-a-retraining"}
ROOTS = {"dense-1", "dense-2", "latency-1"}
KEPT = OTHERS | ROOTS | {
    "sparse-1", "sparse-2", "pruned-1", "pruned-2", "pruned-3",
    "distilled-0", "distilled-1", "distilled-2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("stored", "kept_out", "kept"),
    [
        (False, {}, KEPT),
        (True, {}, KEPT),
        # 3 takes their place, and is what lies in deploy/.
        (False, dict.fromkeys((0, 1, 2), "errs"), KEPT | {"sparse-3", "pruned-4", "distilled-3"}),
    ],
)
def test_front_stays_and_the_rest_goes(
    tmp_path: Path, stored: bool, kept_out: dict[int, str], kept: set[str]
) -> None:
    remote = RemoteFolder((tmp_path / "storage").as_uri()) / "stages" if stored else None
    stages = RemoteStages(remote) if remote else None
    store = ArtifactStore(tmp_path / "run" / "stages", stages)
    records = {}
    for number, (miou, num_params, text) in enumerate(TRIALS):
        names = text.split()
        metrics = {"num_params": num_params} | ({} if miou is None else {"miou": miou})
        records[number] = TrialRecord(
            number=number,
            state="stopped" if miou is None else "complete",
            settings=make_settings(),
            metrics=metrics,
            stages={name.partition("-")[0]: name for name in names},
        )
        for name in names:
            store.obtain(*name.split("-"), lambda folder: {})
    for name in OTHERS:
        stage, _, key = name.partition("-")
        store.obtain(stage, key, lambda folder: {})
    store.advance("distilled", "4", 0.25, lambda folder: {"miou": 0.1})
    study: Any = SimpleNamespace(
        records=records, config=StudyConfig(objectives=("miou", "num_params"))
    )

    for _ in range(2):  # the second as at a later end of the run
        keep_front(study, tmp_path / "run", stages, kept_out, ROOTS)
    here = {path.name for path in store.root.iterdir() if not path.name.startswith(".")}
    assert here == kept
    if remote is not None:
        assert {name.partition("/")[0] for name in remote.list()} == kept
    for name in kept:
        stage, _, key = name.partition("-")
        assert store.find(stage, key) is not None
