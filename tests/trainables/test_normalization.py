"""Each network gets the pixels that it wants, whichever network learns from which."""

from __future__ import annotations

from pathlib import Path

import torch

from models import create_model
from models.checkpoint import load_checkpoint, save_checkpoint
from models.normalization import IMAGENET, Normalization
from trainables.data import Sample, normalization_of, normalize
from trainables.learning.training import bring_batch

BGR = Normalization(mean=(1.0, 2.0, 3.0), std=(2.0, 2.0, 2.0), scale=1.0, channel_order="bgr")


def test_a_batch_is_normalised_for_its_network_and_keeps_its_pixels():
    pixels = torch.tensor([9, 8, 7], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    sample = Sample(pixels, torch.zeros(1, 4, 4, dtype=torch.uint8))
    batch = bring_batch(sample, torch.device("cpu"), BGR)
    assert batch.images[0, :, 0, 0].tolist() == [3.0, 3.0, 3.0]
    assert batch.pixels is not None
    assert torch.equal(batch.pixels, pixels)
    assert torch.equal(bring_batch(sample, torch.device("cpu")).images, normalize(pixels))


def test_a_network_says_how_it_wants_its_pixels_also_once_loaded(tmp_path: Path):
    model = create_model("enet", num_classes=2)
    assert normalization_of(model) == IMAGENET
    assert normalization_of(torch.nn.Conv2d(3, 3, 1)) == IMAGENET
    model.normalization = BGR
    save_checkpoint(tmp_path / "a.safetensors", model)
    assert normalization_of(load_checkpoint(tmp_path / "a.safetensors")) == BGR
