"""What stages took and what sharing saved: worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.pipelines.stage_use import StageFacts, count_use, read_stage_facts

FACTS = {
    "teacher-1": StageFacts(100.0),
    "dense-1": StageFacts(50.0),
    "sparse-1": StageFacts(20.0),
    "sparse-2": StageFacts(30.0),
    "distilled-1": StageFacts(7.0, "built"),
    "distilled-2": StageFacts(8.0, "hit"),
}
SHARED = {"teacher": "teacher-1", "dense": "dense-1"}


def test_shared_stages_count_once_and_save_their_seconds_each_further_time() -> None:
    use = count_use(
        [
            ({**SHARED, "sparse": "sparse-1", "distilled": "distilled-1"}, {"sparse": 20.0}),
            # Found in the store: this pipeline paid nothing, but the work was done.
            ({**SHARED, "sparse": "sparse-2", "distilled": "distilled-2"}, {"sparse": 0.0}),
            # Paused at a rung: seconds without a finished stage.
            ({**SHARED, "sparse": "sparse-1"}, {"sparse": 0.0, "distilled": 3.0}),
            ({**SHARED, "sparse": "sparse-1"}, {}),
            ({}, {}),
        ],
        SHARED,
        FACTS.__getitem__,
    )
    assert use.computed == {"teacher": 1, "dense": 1, "sparse": 2, "distilled": 2}
    assert use.reused == {"sparse": 2}
    assert use.spent == {"teacher": 100, "dense": 50, "sparse": 50, "distilled": 7 + 8 + 3}
    assert use.saved == {"sparse": 40}
    assert use.teacher_cache == {"built": 1, "hit": 1}


@pytest.mark.parametrize(
    ("result", "shares", "facts"),
    [
        ({}, [], StageFacts(5.0)),
        ({"teacher_cache_seconds": 0.0}, [], StageFacts(5.0, "hit")),
        ({"teacher_cache_seconds": 2.5}, [], StageFacts(5.0, "built")),
        # The first part of the training built what the last part found.
        ({"teacher_cache_seconds": 0.0}, [2.5, 0.0], StageFacts(5.0, "built")),
    ],
)
def test_facts_come_from_the_store(
    tmp_path: Path, result: dict[str, Any], shares: list[float], facts: StageFacts
) -> None:
    content = {"result": {"miou": 0.5, "seconds": 5.0, **result}, "files": {}}
    (tmp_path / "result.json").write_text(json.dumps(content))
    for number, seconds in enumerate(shares):
        share = {"miou": 0.4, "seconds": 1.0, "teacher_cache_seconds": seconds}
        (tmp_path / f"share-0.{number}.json").write_text(json.dumps(share))
    assert read_stage_facts(tmp_path) == facts


def test_a_given_network_is_made_once_like_a_trained_one() -> None:
    pipeline = {"given": "dense-1", "sparse": "sparse-1"}
    use = count_use([(pipeline, {}), (pipeline, {})], {"dense": "dense-1"}, FACTS.__getitem__)
    assert use.computed == {"dense": 1, "sparse": 1}
    assert use.reused == {"sparse": 1}
    assert use.saved == {"sparse": 20}
