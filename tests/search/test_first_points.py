from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.config import StudyConfig
from search.run_files.first_points import read_first_points
from search.space import make_space
from trainables.chain import make_settings
from trainables.ranges import FloatRange

CONFIG = StudyConfig(num_pipelines=3, space=make_space(round_to=(8,)))


def read(tmp_path: Path, points: Any, config: StudyConfig = CONFIG) -> tuple[Any, ...]:
    path = tmp_path / "points.json"
    path.write_text(points if isinstance(points, str) else json.dumps(points))
    return read_first_points(path, config)


def test_what_a_point_leaves_out_is_fixed_by_the_space_or_by_the_paper(tmp_path: Path) -> None:
    points = read(tmp_path, [{"pruning_ratio": 0.4}, {"sparsity_lambda": 1e-3, "lr": 0.02}])
    paper = make_settings(round_to=8)
    assert points == (
        {**paper, "pruned.pruning_ratio": 0.4},
        {**paper, "sparse.sparsity_lambda": 1e-3, "distilled.lr": 0.02},
    )


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("[", "is not JSON"),
        ({}, "must contain a list of points"),
        ([], "must contain a list of points"),
        ([{}] * 4, r"at most num_pipelines \(3\) points, got 4"),
        ([{}, 3], "point 2 must be an object of settings, got 3"),
        (
            [{"ratio": 0.4}],
            "point 1: unknown setting ratio; known settings here are .*sparsity_lambda, prun",
        ),
        ([{"pruning_ratio": "much"}], "point 1: pruned: pruning_ratio.*number.*got 'much'"),
        (
            [{"pruning_ratio": 1.5}],
            "point 1: .*pruning_ratio must lie within 0..1, both excluded; got 1.5",
        ),
        (
            [{"pruning_ratio": 0.45}],
            r"pruning_ratio must lie in space.pruned.pruning_ratio .*got 0.45",
        ),
        ([{"round_to": 4}], r"round_to must lie in space.pruned.round_to \(\(8,\)\), got 4"),
    ],
)
def test_bad_points_are_named(tmp_path: Path, points: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(tmp_path, points)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.json cannot be read: No such file"):
        read_first_points(tmp_path / "missing.json", CONFIG)


def test_what_the_papers_chose_is_brought_into_the_space(tmp_path: Path) -> None:
    space = make_space(
        distiller=("none", "kd"), temperature=FloatRange(low=1.0, high=2.0), round_to=(8, 16)
    )
    config = StudyConfig(num_pipelines=3, space=space)
    first, second = read(tmp_path, [{}, {"distiller": "kd", "alpha": 0.25}], config)
    assert first["distilled.distiller"] == "none"
    assert first["pruned.round_to"] == 8
    assert second["distilled.kd.temperature"] == 2.0  # 4 in the paper
    assert second["distilled.kd.alpha"] == 0.25
