"""LEDNet: its size, and that all of its halves stay equal."""

from __future__ import annotations

import pytest
import torch

from models import create_model
from models.blocks.channel_layers import ChannelHalf
from models.pruning import prune


def test_it_has_the_parameters_of_the_known_definition():
    with torch.device("meta"):
        model = create_model("lednet")
    num_params = sum(p.numel() for p in model.parameters())
    assert num_params == 922_821
    assert num_params / 1e6 == pytest.approx(0.94, rel=0.02)  # published


# The stages hand on what they pool: 16 units of 2, 4 and 8 channels, 3 of them tied to the image.
@pytest.mark.parametrize(("round_to", "channels"), [(None, {18, 36, 72}), (8, {16, 32, 64})])
def test_the_stages_stay_split_in_halves(round_to: int | None, channels: set[int]):
    model = create_model("lednet", num_classes=5)
    prune(model, torch.zeros(1, 3, 64, 64), 0.5, round_to=round_to)
    halves = [layer for layer in model.modules() if isinstance(layer, ChannelHalf)]
    assert all(half.in_channels == 2 * half.out_channels for half in halves)
    assert {half.in_channels for half in halves} == channels
