from __future__ import annotations

import numpy as np
import pytest
import torch

from trainables.data import create_dataset


def test_every_class_occurs_in_val_as_it_comes():
    dataset = create_dataset("synthetic", split="val")
    counts = torch.zeros(256, dtype=torch.long)
    for image, target in (dataset[index] for index in range(len(dataset))):
        assert image.shape == (3, 128, 256)
        counts += torch.bincount(target.flatten().long(), minlength=256)
    assert (counts[:19] > 200).all(), counts[:19]
    assert counts[255] > 0
    assert counts[19:255].sum() == 0


def test_splits_seeds_and_indices_give_different_scenes():
    scenes = [
        create_dataset("synthetic", split=split, size=(32, 64), seed=seed)[index].image
        for split in ("train", "val", "test")
        for seed in (0, 1)
        for index in (0, 9)
    ]
    for i, first in enumerate(scenes):
        assert not any(torch.equal(first, second) for second in scenes[i + 1 :])


def test_scenes_are_the_same_on_every_machine():
    # Close, not equal: another Pillow may round an edge, another processor a shade.
    image, target = create_dataset("synthetic", split="val")[3]
    assert int(target.long().sum()) == pytest.approx(474662, rel=1e-3)
    assert float(image.float().mean()) == pytest.approx(137.75, abs=0.05)


@pytest.mark.parametrize("size", [(32, 32), (65, 97), (96, 48)])
def test_any_size(size):
    image, target = create_dataset("synthetic", size=size, num_samples=9)[8]
    assert image.shape == (3, *size)
    assert target.shape == size


def test_colour_alone_does_not_tell_the_classes_apart():
    dataset = create_dataset("synthetic", num_samples=30)
    pixels = torch.cat([dataset[i].image.flatten(1) for i in range(30)], dim=1).numpy()
    labels = torch.cat([dataset[i].target.flatten() for i in range(30)]).numpy()
    bins = (pixels[0] // 32) * 64 + (pixels[1] // 32) * 8 + pixels[2] // 32
    half = len(labels) // 2
    table = np.zeros((512, 256))
    np.add.at(table, (bins[:half].astype(int), labels[:half]), 1)
    guess = table.argmax(axis=1)[bins[half:].astype(int)]
    iou = [
        ((guess == c) & (labels[half:] == c)).sum()
        / max(1, ((guess == c) | (labels[half:] == c)).sum())
        for c in range(19)
    ]
    assert np.mean(iou) < 0.15
