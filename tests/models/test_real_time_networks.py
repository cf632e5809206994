"""The real-time networks and PSPNet: as large as published, and built as their papers say."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from models import WithAuxiliary, create_model
from models.cost import count_cost
from models.networks.bisenetv2 import GatherExpansion
from models.networks.pidnet import PixelAttentionGuidance
from models.networks.pspnet import PyramidPooling
from models.networks.regseg import DilatedBlock
from models.networks.stdc import STDCEncoder


def count(name: str, **kwargs: bool) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in create_model(name, **kwargs).parameters())


@pytest.mark.parametrize(
    ("name", "num_params", "published_m"),
    [
        ("bisenetv2", 3_358_627, 3.36),
        ("fast_scnn", 1_399_939, 1.40),
        ("icnet_resnet50", 47_527_507, 47.53),
        ("pspnet_resnet101", 65_583_699, 65.6),
        ("pspnet_resnet18", 12_622_035, 12.6),
        ("swiftnet_resnet18", 11_797_071, 11.8),
        ("bisenet_resnet18", 13_340_563, None),
        ("ddrnet23_slim", 5_695_923, 5.7),
        ("pidnet_s", 7_625_651, 7.63),
        ("pp_liteseg_t", 6_323_891, 6.33),  # a reimplementation's, see its docstring
        ("regseg", 3_367_151, 3.34),
        ("stdc1", 7_799_347, 7.79),  # a reimplementation's, see its docstring
    ],
)
def test_networks_are_as_large_as_published(name: str, num_params: int, published_m: float | None):
    assert count(name) == num_params
    if published_m is not None:
        assert num_params / 1e6 == pytest.approx(published_m, rel=0.01)


@pytest.mark.parametrize(
    ("name", "num_heads"),
    [
        ("bisenet_resnet18", 2),
        ("bisenetv2", 4),
        ("ddrnet23_slim", 1),
        ("fast_scnn", 2),
        ("icnet_resnet50", 2),
        ("pidnet_s", 1),
        ("pp_liteseg_t", 2),
        ("pspnet_resnet18", 1),
        ("stdc1", 2),
    ],
)
def test_auxiliary_heads_are_for_training_only(name: str, num_heads: int):
    model = create_model(name, num_classes=3, auxiliary=True)
    images = torch.randn(2, 3, 64, 65)
    outputs = model(images)
    assert isinstance(outputs, WithAuxiliary)
    assert len(outputs.auxiliary) == num_heads == len(model.get_output_layers()) - 1
    assert all(tensor.shape == (2, 3, 64, 65) for tensor in outputs.auxiliary)
    with torch.inference_mode():
        assert isinstance(model.eval()(images), torch.Tensor)


@pytest.mark.parametrize(
    ("name", "published_g"), [("ddrnet23_slim", 36.3), ("pidnet_s", 47.6), ("regseg", 39.1)]
)
def test_networks_cost_as_much_as_published(name: str, published_g: float):
    with torch.device("meta"):
        model = create_model(name)
    assert count_cost(model, (3, 1024, 2048)).macs / 1e9 == pytest.approx(published_g, rel=0.02)


def test_pspnet_keeps_an_eighth_of_the_size():
    model = create_model("pspnet_resnet18").eval()
    with torch.inference_mode():
        features = model.get_backbone()(torch.randn(1, 3, 64, 96))
    assert features[-1].shape == (1, 512, 8, 12)


def test_pyramid_pooling_appends_the_mean_of_the_map():
    pyramid = PyramidPooling(2, 3, grids=(1,)).eval()
    conv = pyramid.branches[0][0]
    nn.init.constant_(conv.weight, 0.5)
    features = torch.tensor([[[[1.0, 3.0]], [[2.0, 6.0]]]])
    with torch.inference_mode():
        found = pyramid(features)
    assert found.shape == (1, 5, 1, 2)
    torch.testing.assert_close(found[:, :2], features)
    torch.testing.assert_close(found[:, 2:], torch.full((1, 3, 1, 2), 3.0), rtol=1e-4, atol=0)


def test_gather_expansion_is_a_depthwise_convolution_with_a_multiplier():
    torch.manual_seed(0)
    ours = [depthwise[0][0] for depthwise in GatherExpansion(4, 4, expansion=6).depthwise]
    theirs = nn.Conv2d(4, 24, 3, padding=1, groups=4, bias=False)
    # Theirs orders by input channel, then copy; ours by copy, then channel.
    with torch.no_grad():
        theirs.weight.copy_(torch.stack([conv.weight for conv in ours], dim=1).flatten(0, 1))
    features = torch.randn(1, 4, 5, 7)
    found = torch.stack([conv(features) for conv in ours], dim=2)
    torch.testing.assert_close(found.flatten(1, 2), theirs(features))


def test_swiftnet_runs_its_backbone_as_the_backbone_runs():
    model = create_model("swiftnet_resnet18").eval()
    for block in model.backbone.modules():
        if hasattr(block, "bn2"):  # timm starts residual branches at zero
            nn.init.ones_(block.bn2.weight)
    whole = create_model("pspnet_resnet18", output_stride=32).eval()
    whole.backbone.load_state_dict(model.backbone.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        unactivated = model._run_backbone(images)
        features = whole.backbone(images)
    assert all(tensor.min() < 0 for tensor in unactivated)
    for found, wanted in zip(unactivated, features[2:], strict=True):
        torch.testing.assert_close(found.relu(), wanted)


@pytest.mark.parametrize("name", ["icnet_resnet50", "swiftnet_resnet18"])
def test_backbones_that_cannot_be_taken_apart_are_refused(name: str):
    with pytest.raises(ValueError, match=r"ResNet.*got 'mobilenet_v2'"):
        create_model(name, backbone="mobilenet_v2")


@pytest.mark.parametrize("backbone", ["resnet18", "tu-resnet18d"])
def test_icnet_takes_other_resnets(backbone: str):
    model = create_model("icnet_resnet50", num_classes=3, backbone=backbone).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 65, 97)).shape == (1, 3, 65, 97)


@pytest.mark.parametrize("name", ["ddrnet23_slim", "pidnet_s"])
def test_widths_follow_the_stem(name: str):
    model = create_model(name, num_classes=3, channels=8).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 65, 97)).shape == (1, 3, 65, 97)
    with pytest.raises(ValueError, match="positive multiple of 8, got 12"):
        create_model(name, channels=12)


def test_guidance_takes_context_where_it_agrees_with_the_details():
    guidance = PixelAttentionGuidance(2, 2).eval()
    for embed in (guidance.embed_detail, guidance.embed_context):
        nn.init.dirac_(embed[0].weight)
        embed[1].eps = 0.0
    detail = torch.tensor([[[[1.0, 0.0]], [[2.0, 0.0]]]])
    context = torch.tensor([[[[3.0, 5.0]], [[4.0, 6.0]]]])
    share = torch.tensor([1 * 3.0 + 2 * 4.0, 0.0]).sigmoid()
    with torch.inference_mode():
        torch.testing.assert_close(
            guidance(detail, context), share * context + (1 - share) * detail
        )


def test_a_dilated_block_is_that_of_one_convolution_split():
    torch.manual_seed(0)
    block = DilatedBlock(8, 64, dilations=(1, 4)).eval()
    whole = torch.cat([view[0][0].weight for view in block.views])
    features = torch.randn(1, 8, 9, 11)
    reduced = nn.functional.conv2d(features, whole)
    norms = [nn.Sequential(*list(view[0])[1:]) for view in block.views]
    for half, view, norm in zip(reduced.chunk(2, dim=1), block.views, norms, strict=True):
        torch.testing.assert_close(view(features), view[1](norm(half)))
    assert [view[1][0].groups for view in block.views] == [2, 2]  # groups of 16 channels
    assert [view[1][0].dilation for view in block.views] == [(1, 1), (4, 4)]


def test_the_encoder_of_stdc_is_the_published_classifier_without_its_head():
    with torch.device("meta"):
        encoder = STDCEncoder()
        head = nn.Sequential(
            nn.Conv2d(1024, 1024, 1, bias=False), nn.BatchNorm2d(1024),
            nn.Linear(1024, 1024, bias=False), nn.Linear(1024, 1000, bias=False),
        )  # fmt: skip
    total = sum(p.numel() for part in (encoder, head) for p in part.parameters())
    assert total / 1e6 == pytest.approx(8.44, rel=0.01)
