"""Layers that know their channels by number: what is left equals the whole with zeros."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import SegmentationNetwork, create_model
from models.blocks.attention import EfficientChannelAttention, PlaceWeights, SpatialAttention
from models.blocks.channel_layers import (
    ChannelHalf,
    ChannelLayer,
    ChannelShuffle,
    ChannelSum,
    ChannelTotal,
)
from models.blocks.layers import ConvBN
from models.checkpoint import load_checkpoint, save_checkpoint
from models.pruning import prune

LAYERS: dict[str, ChannelLayer] = {
    "efficient_channel_attention": EfficientChannelAttention(8, kernel_size=5),
    "spatial_attention": SpatialAttention(8),
    "shuffle_of_2": ChannelShuffle(8),
    "shuffle_of_4": ChannelShuffle(8, groups=4),
    "first_half": ChannelHalf(8, 0),
    "second_half": ChannelHalf(8, 1),
}
IMAGE = torch.zeros(1, 3, 64, 96)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("again", [[0, 1, 2, 3], [1, 2]])
def test_what_is_left_equals_the_whole_with_zeros(layer: ChannelLayer, again: list[int]):
    inputs = [[1, 2, 5, 6][i] for i in again]
    pruned = copy.deepcopy(layer)
    pruned.keep([1, 2, 5, 6])
    pruned.keep(again)  # pruning a pruned network
    features = -torch.rand(2, 8, 6, 7)  # negative: the maximum over channels meets the zeros
    silenced = torch.zeros_like(features)
    silenced[:, inputs] = features[:, inputs]
    outputs = [i for i, source in enumerate(layer.get_sources()) if source in inputs]
    expected, found = layer(silenced)[:, outputs], pruned(features[:, inputs])
    assert (pruned.in_channels, pruned.out_channels) == (len(inputs), len(outputs))
    torch.testing.assert_close(found, expected)
    assert [inputs[source] for source in pruned.get_sources()] == [
        layer.get_sources()[output] for output in outputs
    ]


def test_a_shuffle_by_hand():
    features = torch.arange(6.0).view(1, 6, 1, 1)
    shuffle = ChannelShuffle(6)
    assert shuffle(features).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert ChannelShuffle(6, 3)(features).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    torch.testing.assert_close(shuffle(features), nn.functional.channel_shuffle(features, 2))
    shuffle.keep([0, 2, 3])
    assert shuffle.order.tolist() == [0, 2, 1]
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        ChannelShuffle(6, 4)


def test_a_sum_after_a_depthwise_convolution_is_a_grouped_one():
    grouped = nn.Conv2d(12, 4, 3, padding=1, groups=4, bias=False)
    weight = grouped.weight.reshape(12, 1, 3, 3)
    features = torch.randn(2, 12, 5, 6)
    layer = ChannelSum(12, 4)
    spread = nn.functional.conv2d(features, weight, padding=1, groups=12)
    torch.testing.assert_close(layer(spread), grouped(features))
    with pytest.raises(ValueError, match="multiple of 4, got 6"):
        ChannelSum(6, 4)


def test_a_sum_loses_inputs_and_outputs_on_their_own():
    layer = ChannelSum(6, 3)
    layer.keep([0, 1, 2, 4, 5])
    layer.keep_outputs([0, 2])
    layer.keep([0, 2, 3, 4])
    assert layer.owners.tolist() == [0, 2, 1, 1]  # the second had the output that is gone
    features = torch.tensor([1.0, 2, 3, 4]).view(1, 4, 1, 1)
    assert layer(features).flatten().tolist() == [1.0, 7.0]
    assert (layer.in_channels, layer.out_channels) == (4, 2)


def test_a_total_by_hand():
    layer = ChannelTotal(4, 3)
    features = torch.tensor([1.0, 2, 4, 8]).view(1, 4, 1, 1)
    assert layer(features).flatten().tolist() == [15.0, 15, 15]
    layer.keep([0, 3])
    layer.keep_outputs([1, 2])
    assert layer(features[:, [0, 3]]).flatten().tolist() == [9.0, 9]
    assert (layer.in_channels, layer.out_channels) == (2, 2)


@pytest.mark.parametrize("kept", [[0, 1, 2, 3], [1, 3], [2]])
def test_weights_of_places_see_what_is_left_and_zeros(kept: list[int]):
    layer = PlaceWeights(4).eval()
    maps = -torch.rand(2, 2, 4, 5, 6)  # negative: the maximum over channels meets the zeros
    silenced = torch.zeros_like(maps)
    silenced[:, :, kept] = maps[:, :, kept]
    expected = layer(silenced.flatten(1, 2))[:, kept]
    layer.keep([*kept, *(4 + channel for channel in kept)])
    layer.keep_outputs(kept)
    torch.testing.assert_close(layer(maps[:, :, kept].flatten(1, 2)), expected)
    assert (layer.in_channels, layer.out_channels) == (2 * len(kept), len(kept))


def test_weights_of_places_by_hand():
    layer = PlaceWeights(2)
    layer.mix = nn.Conv2d(4, 1, 1, bias=False)
    layer.mix.weight.data = torch.tensor([1.0, 10, 100, 1000]).view(1, 4, 1, 1) / 1000
    both = torch.tensor([1.0, 3, 4, 6]).view(1, 4, 1, 1)
    expected = torch.tensor((2 + 30 + 500 + 6000) / 1000).sigmoid()
    torch.testing.assert_close(layer(both).flatten(), expected.expand(2))


class _Splitting(SegmentationNetwork):
    """A residual that is split, joined and shuffled again and again, tied to the image or not."""

    def __init__(self, num_classes: int = 5, *, with_image: bool = False) -> None:
        super().__init__()
        width = 61 if with_image else 64
        self.with_image = with_image
        self.stem = ConvBN(3, width, 3)
        self.halves = nn.ModuleList(
            nn.ModuleList((ChannelHalf(64, half), ConvBN(32, 32, (3, 1) if half else (1, 3))))
            for _ in range(7)
            for half in range(2)
        )
        self.shuffles = nn.ModuleList(ChannelShuffle(64) for _ in range(7))
        self.classifier = nn.Conv2d(64, num_classes, 1)

    def compute_outputs(self, images: Tensor, with_auxiliary: bool) -> tuple[Tensor, ...]:
        features = self.stem(images)
        if self.with_image:
            features = torch.cat((features, images), dim=1)
        for i, shuffle in enumerate(self.shuffles):
            parts = [conv(half(features)) for half, conv in self.halves[2 * i : 2 * i + 2]]
            features = shuffle(torch.relu(features + torch.cat(parts, dim=1)))
        return (self.classifier(features),)

    def get_output_layers(self) -> tuple[nn.Module, ...]:
        return (self.classifier,)


def _split(with_image: bool = False) -> _Splitting:
    torch.manual_seed(5)
    model = _Splitting(with_image=with_image)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.2, 1.5)
            nn.init.normal_(layer.bias, 0.0, 0.2)
    return model


@pytest.mark.timeout(60)
@pytest.mark.parametrize("round_to", [None, 8])
def test_the_halves_of_a_split_stay_equal(round_to: int | None):
    model = _split()
    prune(model, IMAGE, 0.4, round_to=round_to)
    widths = {(half.in_channels, half.out_channels) for half, _ in model.halves}
    assert widths == ({(38, 19)} if round_to is None else {(32, 16)})
    prune(model, IMAGE, 0.5)  # a pruned network is a network
    assert {2 * half.out_channels for half, _ in model.halves} == {18 if round_to is None else 16}


def test_channels_tied_to_the_image_stay():
    model = _split(with_image=True)
    prune(model, IMAGE, 0.5)
    # 3 of the 32 pairs hold a channel of the image, 14 of the other 29 are kept.
    assert model.stem[0].out_channels == 2 * (14 + 3) - 3
    assert {half.in_channels for half, _ in model.halves} == {2 * (14 + 3)}


def test_a_pruned_network_with_attention_is_saved_and_loaded(tmp_path: Path):
    model = create_model("tbfenet", num_classes=5)
    prune(model, IMAGE, 0.7)
    save_checkpoint(tmp_path / "model.safetensors", model)
    loaded = load_checkpoint(tmp_path / "model.safetensors")
    images = torch.randn(1, 3, 65, 97)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model.eval()(images))
