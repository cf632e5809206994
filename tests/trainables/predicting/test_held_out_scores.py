from __future__ import annotations

import errno
import json
import shutil
from dataclasses import replace

import pandas as pd
import pytest

from models.checkpoint import load_checkpoint
from trainables import predictions
from trainables.data.dataset import UnreadableFileError
from trainables.data.synthetic import Synthetic
from trainables.data_source import DataConfig
from trainables.learning.evaluation import evaluate
from trainables.predicting.held_out_scores import write_test_scores
from trainables.predicting.run_networks import find_networks
from trainables.predictions import main, write_predictions

from .conftest import DATA


def test_every_network_has_its_score(run_dir, context):
    test = DATA.open("test")
    assert write_test_scores(run_dir, find_networks(run_dir), test, context) == []
    table = pd.read_csv(run_dir / "test.csv")
    assert table["network"].tolist() == ["teacher", "dense", "trial-0", "trial-1"]
    assert table["trial"].isna().tolist() == [True, True, False, False]
    network = load_checkpoint(run_dir / "stages/distilled-1/checkpoint.safetensors")
    expected = evaluate(network, test, context)
    assert table["miou"][3] == pytest.approx(expected.miou)
    name = test.classes[0]
    assert table[f"iou/{name}"][3] == pytest.approx(float(expected.iou[0]))


@pytest.mark.parametrize("is_known", [True, False])
def test_scores_are_computed_again_only_for_other_data(run_dir, context, monkeypatch, is_known):
    networks, test = find_networks(run_dir), DATA.open("test")
    write_test_scores(run_dir, networks[:3], test, context)
    before = (run_dir / "test.csv").read_text().splitlines()
    seen = []

    def count(model, dataset, context, **chosen):
        seen.append(model)
        return evaluate(model, dataset, context, **chosen)

    monkeypatch.setattr("trainables.predicting.open_network.evaluate", count)
    if not is_known:  # as written by an earlier version
        pd.read_csv(run_dir / "test.csv").drop(columns="data").to_csv(run_dir / "test.csv")
    write_test_scores(run_dir, networks, test, context)
    assert len(seen) == (1 if is_known else 4)
    write_test_scores(run_dir, networks, replace(DATA, num_samples=20).open("test"), context)
    assert len(seen) == (1 if is_known else 4) + 4
    write_test_scores(run_dir, networks, test, context)
    assert (run_dir / "test.csv").read_text().splitlines()[:4] == before


def test_both_are_written_and_notes_kept(run_dir, context):
    (run_dir / "stages/distilled-1/checkpoint.safetensors").unlink()
    notes = write_predictions(run_dir, DATA, context)
    assert (run_dir / "test.csv").is_file()
    assert json.loads((run_dir / "pictures/index.json").read_text())["notes"] == notes
    assert [("trial-1" in note) for note in notes] == [True, True]


def test_one_unreadable_image_is_left_out(run_dir, context, monkeypatch):
    def read(dataset, index):
        if index == 0:
            raise UnreadableFileError("cut off")
        return whole(dataset, index)

    whole = Synthetic.__getitem__
    monkeypatch.setattr(Synthetic, "__getitem__", read)
    (note,) = write_predictions(run_dir, DATA, context)
    assert "test split: " in note
    assert "cut off" in note
    assert len(pd.read_csv(run_dir / "test.csv")) == 4


def test_no_test_split_is_said(run_dir, context, tmp_path):
    root = tmp_path / "folder"
    shutil.copytree(run_dir / "stages", root / "images")  # no list of a split "test"
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("a\nb\n")
    dataset, notes = predictions._open_test(DataConfig(name="folder", root=root), tmp_path)
    assert dataset is None
    assert "not evaluated on a test split" in notes[0]


def test_pictures_are_kept_if_the_test_split_does_not_fit_the_disk(run_dir, context, monkeypatch):
    def open_cached(data, split, cache_dir):
        if split == "test":
            raise OSError(errno.ENOSPC, "no space left for the cache")
        return whole(data, split, cache_dir)

    whole = DataConfig.open_cached
    monkeypatch.setattr(DataConfig, "open_cached", open_cached)
    (note,) = write_predictions(run_dir, DATA, context)
    assert "not evaluated on a test split: [Errno 28] no space left for the cache" in note
    assert (run_dir / "pictures/index.json").is_file()


def test_command(run_dir, capsys):
    assert main([str(run_dir), "--no-test", "--pictures.num-images", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(run_dir / "pictures")
    assert not (run_dir / "test.csv").exists()
    assert main([str(run_dir / "stages")]) == 2
    assert "must be the configuration of a run" in capsys.readouterr().err
