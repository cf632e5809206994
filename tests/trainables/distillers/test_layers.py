import pytest
import torch
from torch import nn

from models import MODELS, create_model
from trainables.distillers.features import FeatureTaps
from trainables.distillers.layers import Layer, find_layers, find_named, match_stages


def test_stages_and_fusion_of_a_network_without_known_names(tiny):
    found = find_layers(tiny((4, 6, 8)), (32, 48))
    assert [(x.name, x.channels, x.stride) for x in found.stages] == [
        ("first", 4, 2), ("second", 6, 4), ("third", 8, 8)
    ]  # fmt: skip
    assert found.fusion == Layer("classes", True, 6, 4)


@pytest.mark.parametrize("image_size", [(96, 128), (120, 160), (97, 131)])
def test_dilation_in_place_of_resolution_gives_stages_by_width(image_size):
    network = create_model("dual_branch", 5, backbone="tu-resnet18", output_stride=8)
    found = find_layers(network, image_size)
    # The backbone sees the image at half its size.
    assert [(x.name.removeprefix("backbone.model."), x.stride) for x in found.stages] == [
        ("act1", 4), ("layer1", 8), ("layer2", 16), ("layer3", 16), ("layer4", 16)
    ]  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(MODELS) - {"pspnet_resnet101", "icnet_resnet50"}))
def test_every_network_has_stages_and_a_fusion_layer(name):
    network = create_model(name, 5)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = find_layers(network, (64, 96))
    strides = [layer.stride for layer in found.stages]
    assert strides == sorted(strides)
    assert len(found.stages) >= 3
    assert network.training
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())
    output = network.get_submodule(found.fusion.name)
    assert any(p is q for p in output.parameters() for q in network.parameters())


def layer(name, stride, channels=8):
    return Layer(name, False, channels, stride)


def test_stages_are_matched_by_stride_from_the_coarsest():
    student = [layer("a", 4), layer("b", 8), layer("c", 16), layer("d", 32)]
    teacher = [layer("A", 2), layer("B", 4), layer("C", 8), layer("D", 8), layer("E", 8)]
    matched = [(own.name, other.name) for own, other in match_stages(student, teacher)]
    assert matched == [("a", "B"), ("b", "C"), ("c", "D"), ("d", "E")]
    assert match_stages(student, student) == tuple((x, x) for x in student)
    assert match_stages(student, teacher[:1]) == ((student[-1], teacher[0]),)


def test_named_layers_are_found_or_refused(tiny):
    network = tiny()
    assert find_named(network, ("second.0", "classes:input"), (32, 48)) == (
        Layer("second.0", False, 6, 4),
        Layer("classes", True, 6, 4),
    )
    with pytest.raises(ValueError, match=r"no layer 'sedond' in Tiny; it has classes"):
        find_named(network, ("sedond",), (32, 48))


def test_taps_keep_one_pass_and_leave_nothing_behind(tiny):
    network = tiny().eval()
    layers = (Layer("first", False, 4, 2), Layer("classes", True, 6, 4))
    images = torch.randn(1, 3, 32, 48)
    with FeatureTaps(network, layers) as taps:
        network(images)
        maps = taps.take()
        torch.testing.assert_close(maps["first"], network.first(images))
        assert maps["classes:input"].shape == (1, 6, 8, 12)
        with pytest.raises(ValueError, match="layers classes:input of Tiny did not run"):
            taps.take()  # only `first` ran since, by itself
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_coarse_maps_is_refused():
    with pytest.raises(ValueError, match="no map that is coarser than the image"):
        find_layers(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 1)), (32, 48))
