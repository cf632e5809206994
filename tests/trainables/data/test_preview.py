from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from trainables.data import DATASETS, cache_dataset, write_preview
from trainables.data.preview import draw_mask


@pytest.mark.parametrize("name", list(DATASETS))
def test_a_preview_shows_every_class_colour_in_its_legend(open_dataset, tmp_path, name):
    dataset = cache_dataset(open_dataset(name), tmp_path)
    assert len(set(dataset.colours)) == dataset.num_classes
    path = tmp_path / "preview.png"
    write_preview(dataset, path)
    with Image.open(path) as image:
        colours = set(map(tuple, np.asarray(image).reshape(-1, 3)))
    assert set(dataset.colours) <= colours


def test_a_mask_is_mixed_with_its_image_ignored_is_striped_and_edges_are_white():
    image = np.full((9, 9, 3), 100, dtype=np.uint8)
    target = np.zeros((9, 9), dtype=np.uint8)
    target[5:] = 1
    drawn = draw_mask(image, target, ((200, 0, 0), (0, 0, 0)))
    assert drawn[0, 0].tolist() == [150, 50, 50]
    assert drawn[4, 3].tolist() == [255, 255, 255]
    assert drawn[8, 8].tolist() == [50, 50, 50]
    striped = draw_mask(image, np.full((9, 9), 255, dtype=np.uint8), ((200, 0, 0),))
    assert set(striped[..., 0].ravel().tolist()) == {50, 255}


def test_fewer_samples_and_strange_sizes_fit(tree, tmp_path):
    tree.write(3, val=1)
    for kind in ("images", "masks"):
        tree.save(f"{kind}/img1.png", np.eye(200, 3, dtype=np.uint8))
    write_preview(tree.open(), tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 600
