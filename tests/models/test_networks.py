"""One contract for every network of `models.MODELS`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision.transforms import v2

from models import MODELS, WithAuxiliary, create_model
from models.blocks.backbones import create_backbone
from models.blocks.layers import scale_channels

# Keywords that make a network small enough for a test; networks not named here are.
SMALL: dict[str, dict[str, Any]] = {
    "dual_branch": {"backbone": "tu-resnet18d", "width": 0.25, "auxiliary": True},
    "deeplabv3plus": {"backbone": "mobilenet_v2", "decoder_channels": 32},
}

networks = pytest.mark.parametrize("name", sorted(MODELS))


@networks
@pytest.mark.parametrize("size", [(64, 64), (65, 97), (96, 64)])
def test_logits_have_the_size_of_the_images(name: str, size: tuple[int, int]):
    model = create_model(name, num_classes=7, **SMALL.get(name, {})).eval()
    with torch.inference_mode():
        logits = model(torch.randn(1, 3, *size))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (1, 7, *size)


@networks
def test_a_train_step_reaches_every_parameter(name: str):
    model = create_model(name, num_classes=5, **SMALL.get(name, {}))
    outputs = model(torch.randn(2, 3, 65, 97))
    tensors = [outputs]
    if isinstance(outputs, WithAuxiliary):
        tensors = [outputs.logits, *outputs.auxiliary]
    assert all(t.shape == (2, 5, 65, 97) for t in tensors)
    sum(t.square().mean() for t in tensors).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None]
    assert not without


@networks
def test_output_layers_give_the_classes(name: str):
    model = create_model(name, num_classes=5, **SMALL.get(name, {}))
    assert all(layer.out_channels == 5 for layer in model.get_output_layers())


@networks
def test_wrong_keywords_say_what_is_allowed(name: str):
    with pytest.raises(ValueError, match=r"takes .*got colour"):
        create_model(name, colour="red")
    with pytest.raises(ValueError, match="num_classes must be at least 2, got 1"):
        create_model(name, num_classes=1)


@pytest.mark.parametrize("name", ["dual_branch", "deeplabv3plus", "lraspp_mobilenet_v3_large"])
def test_an_unknown_backbone_is_named(name: str):
    with pytest.raises(ValueError, match=r"backbone.*resnet19"):
        create_model(name, backbone="resnet19")


def test_unknown_network_says_what_is_allowed():
    with pytest.raises(ValueError, match=r"dual_branch.*got 'unet'"):
        create_model("unet")


def test_dual_branch_has_the_published_number_of_parameters():
    with torch.device("meta"):
        model = create_model("dual_branch")
    assert sum(p.numel() for p in model.parameters()) == 40_964_715


def test_auxiliary_outputs_are_for_training_only():
    model = create_model("dual_branch", backbone="tu-resnet18d", width=0.25, auxiliary=True)
    images = torch.randn(2, 3, 64, 64)
    assert isinstance(model(images), WithAuxiliary)
    assert isinstance(model.eval()(images), torch.Tensor)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenet_v2", "tu-tf_efficientnet_lite0"])
def test_dual_branch_takes_any_backbone(backbone: str):
    model = create_model("dual_branch", num_classes=3, backbone=backbone, width=0.25).eval()
    with torch.inference_mode():
        assert model(torch.randn(1, 3, 65, 64)).shape == (1, 3, 65, 64)


@pytest.mark.parametrize(
    ("channels", "width", "expected"),
    [(64, 1.0, 64), (64, 0.25, 16), (32, 0.1, 8), (256, 0.33, 88), (100, 1.0, 104)],
)
def test_widths_are_multiples_of_eight(channels: int, width: float, expected: int):
    assert scale_channels(channels, width) == expected


def _encode(backbone: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return backbone.eval()(images)[-1]


def test_local_weights_are_loaded_and_a_classifier_is_ignored(tmp_path: Path):
    source = create_backbone("resnet18")
    tensors = {**source.state_dict(), "fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    save_file(tensors, tmp_path / "weights.safetensors")
    loaded = create_backbone("resnet18", tmp_path / "weights.safetensors")
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(_encode(loaded, images), _encode(source, images), rtol=0, atol=0)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path):
    tensors = create_backbone("resnet18").state_dict()
    tensors["surprise.weight"] = tensors.pop("layer1.0.conv1.weight")
    save_file(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match=r"missing: layer1.0.conv1.weight; .*surprise.weight"):
        create_backbone("resnet18", tmp_path / "odd.safetensors")
    with pytest.raises(ValueError, match="existing file"):
        create_backbone("resnet18", tmp_path / "nowhere.safetensors")
    (tmp_path / "text.safetensors").write_text("not a network")
    with pytest.raises(ValueError, match="not a safetensors file"):
        create_backbone("resnet18", tmp_path / "text.safetensors")


needs_weights = pytest.mark.skipif(
    "SEGFRONT_WEIGHTS" not in os.environ, reason="SEGFRONT_WEIGHTS names no folder of backbones"
)


@needs_weights
@pytest.mark.parametrize(
    ("backbone", "file"),
    [
        ("mobilenet_v2", "mobilenet_v2_trunk_torchvision.safetensors"),
        ("tu-tf_efficientnet_lite0", "efficientnet_lite0_timm.safetensors"),
    ],
)
@pytest.mark.parametrize("name", ["dual_branch", "deeplabv3plus"])
def test_networks_start_from_real_weights(name: str, backbone: str, file: str):
    folder = Path(os.environ["SEGFRONT_WEIGHTS"]) / "imagenet_backbones"
    model = create_model(name, backbone=backbone, backbone_weights=folder / file)
    tensors = load_file(folder / file)
    kept = {k.removeprefix("backbone.").removeprefix("network.encoder.").removeprefix("model."): v
            for k, v in model.state_dict().items()}  # fmt: skip
    shared = [k for k in tensors if k in kept and not k.startswith("classifier")]
    assert len(shared) > 200
    assert all(torch.equal(kept[k], tensors[k]) for k in shared)
    assert "backbone_weights" not in model.kwargs


@needs_weights
@pytest.mark.parametrize("photo", ["cat", "dragonfly", "hotdog", "chickadee", "macaw"])
def test_real_weights_give_the_reference_features(photo: str):
    folder = Path(os.environ["SEGFRONT_WEIGHTS"]) / "imagenet_backbones"
    backbone = create_backbone(
        "mobilenet_v2", folder / "mobilenet_v2_trunk_torchvision.safetensors"
    )
    expected = load_file(folder / "reference_io.safetensors")[f"{photo}.mnv2_pooled"]
    image = Image.open(folder / "photos" / f"{photo}.png").convert("RGB")
    normalize = v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    pixels = v2.functional.center_crop(v2.functional.pil_to_tensor(image), [224, 224])
    features = _encode(backbone, normalize(pixels.float() / 255)[None])
    torch.testing.assert_close(features.mean(dim=(2, 3))[0], expected, rtol=1e-3, atol=1e-4)
