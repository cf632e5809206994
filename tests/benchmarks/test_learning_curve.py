from __future__ import annotations

import importlib
import json
from dataclasses import replace

import pytest

from search.recipes import RECIPES
from trainables.data import AugmentationConfig
from trainables.data_source import DataConfig
from trainables.network_config import NetworkConfig


@pytest.fixture
def learning_curve():
    return importlib.import_module("learning_curve")


def test_every_point_is_measured_and_the_last_is_the_whole_training(
    learning_curve, tmp_path, monkeypatch, capsys
):
    config = RECIPES["streets"]()
    pipeline = replace(
        config.pipeline,
        data=DataConfig(
            size=(64, 64), num_samples=4, augmentation=AugmentationConfig(crop_size=(64, 64))
        ),
        student=NetworkConfig(name="espnet"),
        dense=replace(config.pipeline.dense, batch_size=2),
    )
    monkeypatch.setitem(RECIPES, "streets", lambda: replace(config, pipeline=pipeline))
    output = tmp_path / "curve.json"
    flags = f"streets --num-steps 4 --num-points 2 --cache-dir {tmp_path} --output {output}"
    assert learning_curve.main(flags.split()) == 0
    result = json.loads(output.read_text())
    assert [point["step"] for point in result["points"]] == [2, 4]
    assert result["losses"][-1][0] == 4
    assert capsys.readouterr().out.count("mIoU") == 2


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"recipe": "camvit"}, "recipe must be one of .*; got 'camvit'"),
        ({"recipe": "camvid", "num_steps": 3}, r"num_points must be from 1 to num_steps \(3\)"),
    ],
)
def test_bad_values_are_named(learning_curve, values, message):
    with pytest.raises(ValueError, match=message):
        learning_curve.Arguments(**values)
