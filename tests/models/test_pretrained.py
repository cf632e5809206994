"""Third-party weights: every tensor accounted for, and the scores that their files should give."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from models import create_model
from models.networks.bisenetv2 import GatherExpansion
from models.pretrained import SOURCES, Normalization, load_pretrained, loading, merge_classes
from models.pretrained.mmsegmentation import convert_bisenetv2, convert_pspnet
from models.pretrained.renaming import drop, rename, split
from trainables.data import create_dataset
from trainables.metrics import ConfusionMatrix

WEIGHTS = Path(os.environ.get("SEGFRONT_WEIGHTS", ""))
FILES = {
    "camvid_espnet": "camvid_espnet_orig/espnet_p2_q8_camvid12.safetensors",
    "camvid_espnet_distilled": "camvid_espnet_skd/espnet_base.safetensors",
    **{
        f"cityscapes_espnetv2_{scale}": f"cityscapes_espnetv2/espnetv2_s{scale}"
        "_city20_1024x512.safetensors"
        for scale in (0.5, 1.0, 1.5, 2.0)
    },
}

needs_weights = pytest.mark.skipif(
    "SEGFRONT_WEIGHTS" not in os.environ, reason="SEGFRONT_WEIGHTS names no folder of weights"
)
needs_camvid = pytest.mark.skipif(
    "SEGFRONT_CAMVID" not in os.environ, reason="SEGFRONT_CAMVID names no folder"
)


def load(key: str) -> nn.Module:
    source = SOURCES[key]
    model = source.create_model()
    load_pretrained(model, WEIGHTS / FILES[key], naming=source.naming)
    return model.eval()


def test_names_are_rewritten_one_rule_after_the_other():
    tensors = {"a.conv.weight": torch.zeros(1), "b.weight": torch.ones(1)}
    renamed = rename(tensors, ((r"\.conv\.", ".0."), (r"^a\.0", "c")))
    assert list(renamed) == ["c.weight", "b.weight"]
    with pytest.raises(ValueError, match=r"a\.conv\.weight and another tensor would both be"):
        rename({"b.weight": torch.ones(1), **tensors}, ((r"^a\.conv", "b"),))
    assert list(drop(tensors, (r"^a\.", "nothing"))) == ["b.weight"]


def test_tensors_are_split_by_hand():
    tensors = {"b1.bn.weight": torch.arange(4), "b1.bn.count": torch.tensor(7), "z": torch.ones(1)}
    parts = split(tensors, r"^b1\.", ("x.", "y."))
    assert {name: tensor.tolist() for name, tensor in parts.items()} == {
        "x.bn.weight": [0, 1], "y.bn.weight": [2, 3], "x.bn.count": 7, "y.bn.count": 7, "z": [1],
    }  # fmt: skip
    columns = split({"w": torch.tensor([[1, 2], [3, 4]])}, "w", ("u", "v"), dim=1)
    assert columns["v"].tolist() == [[2], [4]]


def test_pixels_are_normalised_in_the_networks_own_order():
    normalize = Normalization(mean=(1, 2, 3), std=(1, 2, 4), scale=1, channel_order="bgr")
    red = torch.tensor([255, 0, 7], dtype=torch.uint8)[:, None, None]
    assert normalize(red)[:, 0, 0].tolist() == [6.0, -1.0, 63.0]
    with pytest.raises(ValueError, match="channel_order must be 'rgb' or 'bgr', got 'gbr'"):
        Normalization(mean=(0, 0, 0), std=(1, 1, 1), channel_order="gbr")  # type: ignore[arg-type]


def test_merged_classes_sum_their_probabilities():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()[None, :, None, None]
    merged = merge_classes(logits, (1, None, 1, 0), 3)
    torch.testing.assert_close(merged[0, :, 0, 0], torch.tensor([0.4, 0.4, 0.0]))
    with pytest.raises(ValueError, match="2 entries for 4 classes"):
        merge_classes(logits, (0, 1), 2)


@pytest.mark.parametrize("key", SOURCES)
def test_sources_name_networks_that_exist(key: str):
    source = SOURCES[key]
    with torch.device("meta"):
        assert source.create_model().get_output_layers()[0].out_channels == len(source.classes)
    assert all(len(classes) == len(source.classes) for classes in source.class_maps.values())


def save(model: nn.Module, path: Path, **changes: Tensor | None) -> Path:
    tensors: dict[str, Any] = {**model.state_dict(), **changes}
    save_file({k: v for k, v in tensors.items() if v is not None}, path)
    return path


def test_own_weights_load_and_wrong_ones_are_named(tmp_path: Path):
    source = create_model("espnet", 5)
    path = save(source, tmp_path / "own.safetensors")
    model = create_model("espnet", 5)
    load_pretrained(model, path, naming="segfront")
    assert all(torch.equal(a, b) for a, b in zip(source.parameters(), model.parameters(),
                                                 strict=True))  # fmt: skip
    odd = {"level1.0.weight": torch.zeros(16, 4, 3, 3), "level1.1.weight": None,
           "surprise": torch.zeros(1)}  # fmt: skip
    path = save(source, tmp_path / "odd.safetensors", **odd)
    with pytest.raises(
        ValueError,
        match=r"missing: level1\.1\.weight; not in the espnet: surprise; other shape: level1\.0\."
        r"weight \(16, 4, 3, 3\) instead of \(16, 3, 3, 3\)",
    ):
        load_pretrained(model, path, naming="segfront")
    with pytest.raises(ValueError, match="there is no"):
        load_pretrained(model, tmp_path / "nowhere.safetensors", naming="segfront")
    with pytest.raises(ValueError, match=r"naming must be one of segfront, .*got 'keras'"):
        load_pretrained(model, path, naming="keras")
    with pytest.raises(ValueError, match=r"mmsegmentation has weights for .*network 'espnet'"):
        load_pretrained(model, path, naming="mmsegmentation")
    with pytest.raises(ValueError, match=r"tensors by name; \['meta'\]"):
        load_pretrained(model, {"meta": 3}, naming="segfront")


def test_other_classes_keep_their_own_layers():
    source, model = create_model("lraspp_mobilenet_v3_large", 21), create_model(
        "lraspp_mobilenet_v3_large", 5
    )  # fmt: skip
    tensors = {k.removeprefix("network."): v for k, v in source.state_dict().items()}
    with pytest.raises(ValueError, match=r"other shape: network\.classifier\.low_classifier"):
        load_pretrained(model, tensors, naming="torchvision")
    before = model.network.classifier.low_classifier.weight.clone()
    load_pretrained(model, tensors, naming="torchvision", with_classes=False)
    assert torch.equal(model.network.classifier.low_classifier.weight, before)
    cbr = "network.classifier.cbr.0.weight"
    assert torch.equal(model.state_dict()[cbr], source.state_dict()[cbr])


def test_registries_and_urls_are_asked_for_tensors_alone(monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str, bool]] = []
    model = create_model("espnet", 5)

    def download(url: str, *, weights_only: bool, **_: object) -> dict[str, Any]:
        asked.append((url, weights_only))
        return {"meta": {}, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", download)
    load_pretrained(model, "https://example.org/net-01234567.pth", naming="segfront")
    assert asked == [("https://example.org/net-01234567.pth", True)]
    entry = loading.get_weight("LRASPP_MobileNet_V3_Large_Weights.COCO_WITH_VOC_LABELS_V1")
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: {"a": torch.zeros(1)})
    lraspp = create_model("lraspp_mobilenet_v3_large", 21)
    with pytest.raises(ValueError, match="does not fit the lraspp_mobilenet_v3_large"):
        load_pretrained(lraspp, f"torchvision:{entry}", naming="torchvision")


def test_backbones_load_by_the_same_door():
    source, model = (create_model("pspnet_resnet18", 3) for _ in range(2))
    own, wanted = model.get_backbone().state_dict(), source.get_backbone().state_dict()
    tensors = {key.removeprefix("model."): tensor for key, tensor in wanted.items()}
    tensors |= {"fc.weight": torch.zeros(10, 512), "fc.bias": torch.zeros(10)}
    load_pretrained(model, tensors, naming="timm")
    assert all(torch.equal(own[key], wanted[key]) for key in own)


class TheirExpansion(nn.Module):
    """mmsegmentation's GELayer of stride 2, as far as its layers are named in a checkpoint."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        wide = 6 * inputs
        self.conv1 = self.convolve(inputs, inputs, 3)
        self.dwconv = nn.Sequential(
            self.convolve(inputs, wide, 3, stride=2, groups=inputs),
            self.convolve(wide, wide, 3, groups=wide),
        )
        self.shortcut = nn.Sequential(nn.ModuleDict({
            "depthwise_conv": self.convolve(inputs, inputs, 3, stride=2, groups=inputs),
            "pointwise_conv": self.convolve(inputs, outputs, 1),
        }))  # fmt: skip
        self.conv2 = nn.Sequential(self.convolve(wide, outputs, 1))

    @staticmethod
    def convolve(inputs: int, outputs: int, size: int, **options: int) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False, **options)
        module = nn.Sequential()
        module.add_module("conv", conv)
        module.add_module("bn", nn.BatchNorm2d(outputs))
        return module

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut[0]["pointwise_conv"](self.shortcut[0]["depthwise_conv"](x))
        expanded = F.relu(self.dwconv(F.relu(self.conv1(x))))
        return F.relu(self.conv2(expanded) + shortcut)


def test_the_expanded_channels_of_mmsegmentation_are_reordered():
    theirs, ours = TheirExpansion(4, 8).eval(), GatherExpansion(4, 8, stride=2).eval()
    for layer in theirs.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
    prefix = "backbone.semantic.stage2.0."
    converted = convert_bisenetv2({prefix + k: v for k, v in theirs.state_dict().items()})
    ours.load_state_dict({k.removeprefix("semantic.0.0."): v for k, v in converted.items()})
    images = torch.randn(1, 4, 9, 8)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("convert", "theirs", "ours"),
    [
        (convert_pspnet, "backbone.stem.3.weight", "backbone.model.conv1.3.weight"),
        (convert_pspnet, "backbone.stem.7.bias", "backbone.model.bn1.bias"),
        (convert_pspnet, "backbone.layer1.0.downsample.0.weight",
         "backbone.model.layer1.0.downsample.0.weight"),
        (convert_pspnet, "decode_head.psp_modules.2.1.conv.weight",
         "pyramid.branches.2.0.weight"),
        (convert_pspnet, "decode_head.bottleneck.bn.running_mean", "head.0.1.running_mean"),
        (convert_pspnet, "decode_head.conv_seg.bias", "head.2.bias"),
        (convert_pspnet, "auxiliary_head.convs.0.conv.weight", "auxiliary_head.0.0.weight"),
        (convert_bisenetv2, "backbone.detail.detail_branch.2.1.conv.weight", "detail.6.0.weight"),
        (convert_bisenetv2, "backbone.semantic.stage1.convs.1.bn.bias", "stem.convolved.1.1.bias"),
        (convert_bisenetv2, "backbone.semantic.stage4.3.conv1.conv.weight",
         "semantic.2.3.gather.0.weight"),
        (convert_bisenetv2, "backbone.semantic.stage4_CEBlock.gap.1.weight",
         "context.norm.weight"),
        (convert_bisenetv2, "backbone.bga.detail_dwconv.0.pointwise_conv.conv.weight",
         "aggregation.detail_keep.2.weight"),
        (convert_bisenetv2, "backbone.bga.semantic_dwconv.0.depthwise_conv.bn.weight",
         "aggregation.semantic_keep.1.weight"),
        (convert_bisenetv2, "backbone.bga.semantic_conv.0.conv.weight",
         "aggregation.semantic_up.0.weight"),
        (convert_bisenetv2, "backbone.bga.detail_down.0.bn.bias",
         "aggregation.detail_down.0.1.bias"),
        (convert_bisenetv2, "backbone.bga.conv.conv.weight", "aggregation.fuse.0.weight"),
        (convert_bisenetv2, "decode_head.convs.0.conv.weight", "head.0.0.weight"),
        (convert_bisenetv2, "auxiliary_head.3.conv_seg.weight", "auxiliary_heads.3.2.weight"),
    ],
)  # fmt: skip
def test_mmsegmentations_names(convert: Any, theirs: str, ours: str):
    name = "bisenetv2" if convert is convert_bisenetv2 else "pspnet_resnet101"
    kwargs = {} if name == "bisenetv2" else {"backbone": "tu-resnet101c"}
    with torch.device("meta"):
        model = create_model(name, auxiliary=True, **kwargs)
    assert list(convert({theirs: torch.zeros(12)})) == [ours]
    assert ours in model.state_dict()


@needs_weights
@pytest.mark.parametrize("key", FILES)
def test_real_weights_fit_tensor_by_tensor(key: str):
    model = load(key)
    found = sum(p.numel() for p in model.parameters())
    theirs = load_file(WEIGHTS / FILES[key])
    wanted = sum(
        t.numel()
        for k, t in theirs.items()
        if not k.endswith(("running_mean", "running_var", "num_batches_tracked"))
        and "_0.eesp.module_act" not in k
    )
    assert found == wanted


@needs_weights
@needs_camvid
@pytest.mark.camvid
@pytest.mark.slow
def test_espnet_scores_on_camvid_what_its_authors_weights_should():
    """Published with the weights: val 70.10 with void as a twelfth class, 69.35 without."""
    source, model = SOURCES["camvid_espnet"], load("camvid_espnet")
    dataset = create_dataset("camvid", split="val")
    with_void, without = ConfusionMatrix(12), ConfusionMatrix(11)
    for index in range(len(dataset)):
        sample = dataset[index]
        with torch.inference_mode():
            logits = model(source.normalization(sample.image[None]))[0]
        with_void.update(logits.argmax(dim=0), sample.target)
        without.update(logits[:11].argmax(dim=0), sample.target)
    expected = [94.7, 84.5, 12.1, 96.8, 86.8, 90.7, 40.4, 70.9, 81.3, 42.8, 70.2]
    assert (100 * with_void.iou[:11]).tolist() == pytest.approx(expected, abs=0.06)
    assert 100 * with_void.iou[:11].mean() == pytest.approx(70.10, abs=0.01)
    assert 100 * without.miou == pytest.approx(69.35, abs=0.01)


@needs_weights
@needs_camvid
@pytest.mark.camvid
@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5, 2.0])
def test_espnetv2_gives_the_reference_logits(scale: float):
    path = Path(os.environ["SEGFRONT_CAMVID"]) / "test" / "0001TP_008550.png"
    if not path.is_file():
        pytest.skip(f"there is no {path}: the reference is an image of the test split")
    key = f"cityscapes_espnetv2_{scale}"
    source, model = SOURCES[key], load(key)
    image = Image.open(path).convert("RGB").resize(source.size[::-1], Image.Resampling.BILINEAR)
    with torch.inference_mode():
        logits = model(source.normalization(pil_to_tensor(image)[None]))[0]
    reference = WEIGHTS / "cityscapes_espnetv2" / "reference_io_0001TP_008550.safetensors"
    expected = load_file(reference)[f"s{scale}.logits_s16"]
    torch.testing.assert_close(logits[:, ::16, ::16], expected, rtol=1e-4, atol=1e-4)


def test_class_layers_are_traced_once(monkeypatch: pytest.MonkeyPatch):
    model = create_model("tests.models.foreign_networks:Plain", num_classes=5)
    found, calls = model.get_output_layers(), []
    monkeypatch.setattr(type(model), "get_output_layers", lambda _: calls.append(1) or found)
    load_pretrained(model, model.state_dict(), naming="segfront", with_classes=False)
    assert len(calls) == 1
