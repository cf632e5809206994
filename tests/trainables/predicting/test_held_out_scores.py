from __future__ import annotations

import errno
import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from models.checkpoint import load_checkpoint
from trainables import predictions
from trainables.data.dataset import SegmentationDataset, UnreadableFileError
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


def write_folder(root, names="abc"):
    """A data set of lists with one image per split, which are the same if their names are."""
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    for number, name in enumerate(names):
        image = np.full((64, 96, 3), 50 * number, np.uint8)
        Image.fromarray(image).save(root / "images" / f"{name}.png")
        Image.fromarray(image[..., 0] % 2 + np.eye(64, 96, dtype=np.uint8)).save(
            root / "masks" / f"{name}.png"
        )
    (root / "classes.txt").write_text("\n".join(DATA.open("val").classes))
    for split, name in zip(("train", "val", "test"), names, strict=False):
        (root / f"{split}.txt").write_text(name)
    return DataConfig(name="folder", root=root)


def test_no_test_split_is_said(run_dir, context, tmp_path):
    data = write_folder(tmp_path / "folder", "ab")
    (note,) = write_predictions(run_dir, data, context)
    assert note == "not evaluated on a test split: data set 'folder' has none"
    (tmp_path / "folder" / "test.txt").write_text("nowhere")
    (note,) = write_predictions(run_dir, data, context)
    assert "not evaluated on a test split: " in note
    assert "names 'nowhere'" in note


def test_a_test_split_without_labels_is_not_predicted(run_dir, context, tmp_path, monkeypatch):
    data = write_folder(tmp_path / "folder")
    Image.new("L", (96, 64), 255).save(tmp_path / "folder" / "masks" / "c.png")
    monkeypatch.setattr(predictions, "write_test_scores", None)
    (note,) = write_predictions(run_dir, data, context)
    assert note == "not evaluated on a test split: it has no labels"


def test_a_test_split_that_the_data_set_disowns_is_not_opened(run_dir, context, monkeypatch):
    monkeypatch.setattr(Synthetic, "has_split", SegmentationDataset.has_split)
    (note,) = write_predictions(run_dir, DATA, context)
    assert note == "not evaluated on a test split: data set 'synthetic' has none"


@pytest.mark.parametrize("other", ["train", "val"])
def test_images_that_are_not_held_out_are_warned_of(run_dir, context, tmp_path, other):
    data = write_folder(tmp_path / "folder")
    copied = (tmp_path / "folder" / "images" / f"{'ab'[other == 'val']}.png").read_bytes()
    (tmp_path / "folder" / "images" / "c.png").write_bytes(copied)
    (note,) = write_predictions(run_dir, data, context)
    assert f"test split: 1 image of 'test' is also in '{other}': " in note
    assert (run_dir / "test.csv").is_file()


def test_scores_are_written_though_the_training_images_cannot_be_read(run_dir, context, tmp_path):
    data = write_folder(tmp_path / "folder")
    (tmp_path / "folder" / "train.txt").write_text("nowhere")
    (note,) = write_predictions(run_dir, data, context)
    assert "test split: it is not compared with the training images: " in note
    assert (run_dir / "test.csv").is_file()


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
