from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from trainables.data import cache_dataset, create_dataset
from trainables.data.download import FOLDER_DIGESTS, NUM_FILES, digest_folder

pytestmark = [
    pytest.mark.camvid,
    pytest.mark.skipif(
        "SEGFRONT_CAMVID" not in os.environ, reason="SEGFRONT_CAMVID names no CamVid folder"
    ),
]


@pytest.mark.parametrize("split", ["train", "val"])
def test_every_file_of_camvid_is_good(split, tmp_path):
    dataset = create_dataset("camvid", split=split)
    cached = cache_dataset(dataset, tmp_path)
    assert len(cached) == NUM_FILES[split]
    counts = torch.zeros(256, dtype=torch.long)
    for image, target in (cached[index] for index in range(len(cached))):
        assert image.shape == (3, 360, 480)
        counts += torch.bincount(target.flatten().long(), minlength=256)
    assert (counts[:11] > 0).all()
    assert counts[11:255].sum() == 0
    assert counts[255] > 0


@pytest.mark.parametrize("folder", ["val", "valannot", "trainannot"])
def test_digests_are_those_of_the_downloader(folder):
    path = Path(os.environ["SEGFRONT_CAMVID"]) / folder
    assert digest_folder(path) == FOLDER_DIGESTS[folder]
