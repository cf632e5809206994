from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from models.checkpoint import load_checkpoint
from trainables.data import normalize
from trainables.learning.evaluation import evaluate
from trainables.predicting.pictures import PictureLimits, write_pictures
from trainables.predicting.run_networks import find_networks

from .conftest import DATA

KEYS = ["teacher", "dense", "trial-0", "trial-1"]


def read_index(run_dir):
    return json.loads((run_dir / "pictures" / "index.json").read_text())


def test_front_and_baselines_are_found(run_dir):
    networks = find_networks(run_dir)
    assert [network.key for network in networks] == KEYS  # trial 2 is dominated, 3 failed
    assert networks[2].folder == run_dir / "stages/distilled-0"


def test_a_network_that_is_kept_out_is_not_on_the_front(run_dir):
    (run_dir / "deploy").mkdir()
    (run_dir / "deploy" / "kept_out.json").write_text('{"0": "the engine errs"}')
    assert [network.key for network in find_networks(run_dir)][2:] == ["trial-1"]


def test_not_a_run_folder_is_named(tmp_path):
    with pytest.raises(ValueError, match="run folder"):
        find_networks(tmp_path)


def test_pictures_are_what_the_networks_say(run_dir, context):
    dataset = DATA.open("val")
    notes = write_pictures(run_dir, find_networks(run_dir), dataset, context)
    assert notes == []
    index = read_index(run_dir)
    assert [network["key"] for network in index["networks"]] == KEYS
    assert len(index["images"]) == len(dataset) == index["num_evaluated"] == 6
    names = [dataset.sample_name(i) for i in range(len(dataset))]
    network = load_checkpoint(run_dir / "stages/distilled-1/checkpoint.safetensors")
    for entry in index["images"]:
        image, target = dataset[names.index(entry["name"])]
        with torch.inference_mode():
            expected = network(normalize(image[None])).argmax(1)[0]
        shown = np.asarray(Image.open(run_dir / "pictures" / entry["predictions"]["trial-1"]))
        assert (shown == expected.numpy()).all()
        label = Image.open(run_dir / "pictures" / entry["label"])
        assert (np.asarray(label) == target.numpy()).all()
        valid = target != 255
        wrong = float((expected[valid] != target[valid]).double().mean())
        assert entry["wrong"]["trial-1"] == pytest.approx(wrong, abs=1e-4)


def test_palette_bears_the_colours_of_the_classes(run_dir, context):
    dataset = DATA.open("val")
    write_pictures(run_dir, find_networks(run_dir), dataset, context)
    index = read_index(run_dir)
    mask = Image.open(run_dir / "pictures" / index["images"][0]["label"])
    colors = dataset.colours
    assert [entry["color"] for entry in index["classes"]] == [
        "#{:02x}{:02x}{:02x}".format(*color) for color in colors
    ]
    classes, drawn = np.asarray(mask), np.asarray(mask.convert("RGB"))
    for value in set(np.unique(classes)) - {255}:
        assert tuple(drawn[classes == value][0]) == colors[value]
    assert len(set(colors)) == len(colors)


def test_scores_are_those_of_a_whole_evaluation(run_dir, context):
    dataset = DATA.open("val")
    write_pictures(run_dir, find_networks(run_dir), dataset, context)
    dense = load_checkpoint(run_dir / "stages/dense-a/checkpoint.safetensors")
    expected = evaluate(dense, dataset, context)
    found = next(n for n in read_index(run_dir)["networks"] if n["key"] == "dense")
    assert found["miou"] == pytest.approx(expected.miou, abs=1e-4)


def test_limits_hold(run_dir, context):
    limits = PictureLimits(num_images=2, max_side=48, num_candidates=3)
    write_pictures(run_dir, find_networks(run_dir), DATA.open("val"), context, limits)
    index = read_index(run_dir)
    assert (len(index["images"]), index["num_evaluated"]) == (2, 3)
    for name in ("image", "label"):
        path = run_dir / "pictures" / index["images"][0][name]
        assert Image.open(path).size == (48, 32)


def test_folder_stays_below_its_limit(run_dir, context):
    limits = PictureLimits(num_images=4, max_bytes=12_000)
    notes = write_pictures(run_dir, find_networks(run_dir), DATA.open("val"), context, limits)
    files = list((run_dir / "pictures").rglob("*.*"))
    pictures = [path for path in files if path.suffix in (".png", ".jpg")]
    index = read_index(run_dir)
    assert 1 <= len(index["images"]) < 4
    assert len(pictures) == 6 * len(index["images"])
    assert len(index["images"]) == 1 or sum(p.stat().st_size for p in pictures) <= 12_000
    assert any("is left out" in note for note in notes)


def test_a_network_that_cannot_be_read_is_named(run_dir, context):
    (run_dir / "stages/distilled-1/checkpoint.safetensors").write_bytes(b"broken")
    notes = write_pictures(run_dir, find_networks(run_dir), DATA.open("val"), context)
    assert any("trial-1" in note for note in notes)
    assert [n["key"] for n in read_index(run_dir)["networks"]] == KEYS[:3]


def test_an_earlier_folder_is_replaced(run_dir, context):
    (run_dir / "pictures").mkdir()
    (run_dir / "pictures" / "old.png").write_bytes(b"")
    write_pictures(run_dir, find_networks(run_dir), DATA.open("val"), context)
    assert not (run_dir / "pictures" / "old.png").exists()


@pytest.mark.parametrize(
    "options", [{"num_images": 0}, {"num_images": 9}, {"max_side": 8}, {"num_candidates": 0}]
)
def test_limits_are_checked(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))} .*{next(iter(options.values()))}"):
        PictureLimits(**options)


def test_colours_that_a_data_set_declares_are_drawn(run_dir, context, monkeypatch):
    dataset = DATA.open("val")
    own = tuple((i, 2 * i, 255 - i) for i in range(dataset.num_classes))
    monkeypatch.setattr(type(dataset), "colours", own)
    write_pictures(run_dir, find_networks(run_dir), dataset, context)
    index = read_index(run_dir)
    assert [entry["color"] for entry in index["classes"]][3] == "#0306fc"
    mask = Image.open(run_dir / "pictures" / index["images"][0]["label"])
    classes, drawn = np.asarray(mask), np.asarray(mask.convert("RGB"))
    assert tuple(drawn[classes == (value := classes.min())][0]) == own[value]
