"""Networks of the user's own: built, pruned, proven, saved, loaded and exported like ours."""

from __future__ import annotations

import copy
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from models import ForeignNetwork, SegmentationNetwork, WithAuxiliary, create_model
from models.channels.masking import mask_channels
from models.checkpoint import load_checkpoint, save_checkpoint
from models.class_layers import renew_class_layers
from models.cost import count_cost
from models.export import export_onnx
from models.export import main as export
from models.foreign import split_outputs
from models.pruning import PruningError, PruningRecord, prune
from models.user_code import find_user_code
from tests.models import foreign_networks
from tests.models.foreign_networks import PRUNABLE

IMAGE = torch.zeros(1, 3, 64, 96)
MODULE = "tests.models.foreign_networks"


def make(name: str, **kwargs: object) -> SegmentationNetwork:
    torch.manual_seed(1)
    model = create_model(f"{MODULE}:{name}", num_classes=5, **kwargs)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.InstanceNorm2d):
            if layer.weight is not None:
                nn.init.uniform_(layer.weight, 0.2, 1.5)
            if layer.bias is not None:
                nn.init.normal_(layer.bias, 0.0, 0.2)
            if layer.running_mean is not None:
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("kind", PRUNABLE, ids=lambda kind: kind.__name__)
def test_whatever_a_network_does_with_its_channels_it_is_pruned(
    kind: type[nn.Module], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    model = make(kind.__name__)
    masked = copy.deepcopy(model).eval().double()
    record = prune(model, IMAGE, 0.5)
    assert record.num_params_after < 0.95 * record.num_params_before
    assert bool(record.unprunable) == PRUNABLE[kind]
    assert PruningRecord.from_json(record.to_json()).unprunable == record.unprunable
    assert ("left whole" in caplog.text) == bool(record.unprunable)
    for name in record.unprunable:
        model.get_submodule(name)

    mask_channels(masked, record.layers)
    images = torch.randn(1, 3, 64, 96, dtype=torch.float64)
    with torch.inference_mode():
        expected = masked(images)
        found = copy.deepcopy(model).eval().double()(images)
    assert found.shape == (1, 5, 64, 96)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)

    outputs = model.train()(torch.randn(2, 3, 70, 90))
    logits = outputs.logits if isinstance(outputs, WithAuxiliary) else outputs
    assert logits.shape == (2, 5, 70, 90)
    logits.square().mean().backward()

    save_checkpoint(tmp_path / "a.safetensors", model)
    loaded = load_checkpoint(tmp_path / "a.safetensors", factory=f"{MODULE}:{kind.__name__}")
    images = torch.randn(1, 3, 70, 90)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model.eval()(images))
    parameters = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in loaded.parameters()) == parameters == record.num_params_after


@pytest.mark.parametrize(
    ("name", "layer", "reason"),
    [
        ("Averaged", "body.0.0", "mean"),
        ("SplitBySize", "body.0.0", "by number"),
        ("Picked", "body.0.0", "by number"),
        ("LayerNormed", "body.0.0", "LayerNorm|bare parameter"),
        ("Attentive", "attention.out_proj", "outside of it"),
        ("GroupNormed", "wide.0", "GroupNorm"),
        ("Standardised", "body.0.0", "differs from the masked"),
        ("AddedToAll", "body.0.0", "one channel meets all others"),
        ("Neighbouring", "body.0.0", "no Conv2d or ConvTranspose2d layer"),
        ("PaddedLargest", "conv", "may be below zero"),
    ],
)
def test_what_is_left_whole_is_named_with_the_reason(name: str, layer: str, reason: str):
    unprunable = prune(make(name), IMAGE, 0.5).unprunable
    assert f"network.{layer}" in unprunable
    import re

    assert re.search(reason, unprunable[f"network.{layer}"])


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("round_to", [None, 4])
def test_grouped_convolutions_keep_equal_groups(scope: str, round_to: int | None):
    model = make("Grouped")
    prune(model, IMAGE, 0.4, scope, round_to)
    prune(model, IMAGE, 0.3, scope, round_to)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.in_channels % layer.groups == layer.out_channels % layer.groups == 0


def test_heads_that_only_training_runs_are_pruned_with_the_rest():
    model = make("Auxiliary")
    record = prune(model.eval(), IMAGE, 0.5)
    assert record.layers["network.auxiliary.0.0"].inputs == record.layers["network.stem.1"].outputs
    assert isinstance(model(torch.zeros(1, 3, 64, 64)), Tensor)
    outputs = model.train()(torch.zeros(2, 3, 64, 64))
    assert [t.shape for t in outputs.auxiliary] == [(2, 5, 64, 64)]


def test_nothing_to_prune_is_an_error_that_names_layers_and_reason():
    model = make("NothingToPrune")
    before = {k: t.clone() for k, t in model.state_dict().items()}
    with pytest.raises(PruningError, match=r"network\.patches: LayerNorm normalises over its chan"):
        prune(model, IMAGE, 0.5)
    assert all(torch.equal(before[k], t) for k, t in model.state_dict().items())


def test_a_network_of_class_layers_alone_is_named_so():
    with pytest.raises(PruningError, match="no linear layer besides those that give the classes"):
        prune(make("ClassesAlone"), IMAGE, 0.5)


@pytest.mark.filterwarnings("ignore:The .grad attribute")
def test_a_network_without_its_code_is_named_so():
    with pytest.raises(
        PruningError, match=r"TorchScript or torch\.export, it can only be a teacher"
    ):
        prune(make("scripted"), IMAGE, 0.5)


def test_shared_weights_stay_shared(tmp_path: Path):
    model = make("Reused")
    prune(model, IMAGE, 0.5)
    assert model.network.first.weight is model.network.second.weight
    save_checkpoint(tmp_path / "a.safetensors", model)
    loaded = load_checkpoint(tmp_path / "a.safetensors", factory=f"{MODULE}:Reused")
    assert loaded.network.first.weight is loaded.network.second.weight
    assert loaded.network.first.weight.shape == model.network.first.weight.shape


def test_class_layers_are_found_by_tracing():
    assert make("Auxiliary").get_output_layers()[0].out_channels == 5
    for name in ("Plain", "AsObject", "AsMapping"):
        model = make(name)
        assert model.get_output_layers() == (model.network.head,)
    model = make("Auxiliary")
    assert set(model.get_output_layers()) == {model.network.head, model.network.auxiliary[2]}


@pytest.mark.parametrize("options", [{}, {"image_size": [160, 288]}], ids=str)
def test_class_layers_are_found_in_a_network_of_one_size(options: dict[str, object]):
    model = make("OfOneSize", **options)
    assert model.get_output_layers() == (model.network.head,)
    renew_class_layers(model, 7)
    assert model.network.head.out_channels == model.num_classes == 7
    with pytest.raises(ValueError, match=r"224 x 224.*state it: --pipeline\.student\.kwargs"):
        ForeignNetwork(foreign_networks.OfOneSize(5, (160, 288)), 5).get_output_layers()


def test_class_layers_are_found_although_their_channels_are_normalised():
    model = make("EndsInSoftmax")
    assert model.get_output_layers() == (model.network.head,)
    renew_class_layers(model, 7)
    assert model(torch.zeros(2, 3, 64, 64)).shape[1] == 7


@pytest.mark.parametrize("name", ["with_classes", "with_n_classes", "Plain"])
def test_the_number_of_classes_goes_by_the_name_that_a_factory_has(name: str):
    assert make(name)(torch.zeros(2, 3, 64, 64)).shape[1] == 5


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        (f"{MODULE}:without_classes", {}, "num_classes, classes, n_classes; it takes depth"),
        (f"{MODULE}:not_a_module", {}, "must return an nn.Module, got a int"),
        (f"{MODULE}:Plain", {"colour": 1}, "takes the keywords num_classes, depth; got colour"),
        (f"{MODULE}:Plain", {"depth": -1.5}, "cannot be built with .*TypeError"),
        (f"{MODULE}:Plain", {"classes": 3}, "leave 'classes' out of the keywords"),
        (f"{MODULE}:Plain", {"depth": {1, 2}}, "must be JSON-serialisable"),
        (f"{MODULE}:Plane", {}, "has no 'Plane'; it has .*Plain"),
        ("no_such_package.of_mine:Plain", {}, "ModuleNotFoundError.*PYTHONPATH=FOLDER, or start"),
        (f"{MODULE}:CopiedByNobody", {}, "cannot be copied.*those of torch.nn.utils.parametriz"),
        ("models.unet:Unet", {}, "segfront has a package models, which goes before yours"),
        ("/no/such/file.py:Plain", {}, "there is no file"),
        ("smp:Unit", {}, "has Unet, .*got 'Unit'"),
        ("torchvision:unet", {}, "torchvision has the networks .*got 'unet'"),
        (":Plain", {}, "must be package.module:factory"),
        ("smp:", {}, "must be package.module:factory"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_remedy(
    name: str, kwargs: dict[str, object], message: str
):
    with pytest.raises(ValueError, match=message):
        create_model(name, num_classes=5, **kwargs)


def test_a_file_that_imports_a_package_named_as_ours_is_told_so(tmp_path: Path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "unet.py").write_text("Unet = None")
    for line in ("from models.unet import Unet", "from models import Unet"):
        path = tmp_path / f"net{len(line)}.py"
        path.write_text(line)
        with pytest.raises(ValueError, match="segfront has a package models"):
            create_model(f"{path}:Unet", num_classes=5)


def test_logits_of_other_classes_are_refused_at_once():
    class Fixed(foreign_networks.Plain):
        def __init__(self, num_classes: int) -> None:
            super().__init__(num_classes + 2)

    foreign_networks.Fixed = Fixed
    with pytest.raises(ValueError, match=r"logits of shape \(N, 5, H, W\).*got \(1, 7"):
        make("Fixed")


def test_outputs_are_told_apart():
    logits, other = torch.zeros(1, 2, 3, 3), torch.ones(1, 2, 3, 3)
    assert split_outputs(logits) == [logits]
    for outputs in (
        [logits, other],
        (logits, [other]),
        {"aux": other, "out": logits},
        {"logits": logits, "aux": (other,)},
        ({"out": logits}, other),
        WithAuxiliary(logits, (other,)),
        foreign_networks.Outputs(logits, other),
    ):
        found = split_outputs(outputs)
        assert found[0] is logits
        assert [t for t in found[1:] if t is other] == [other]
    with pytest.raises(ValueError, match="must return 'out' or 'logits' in it; got masks"):
        split_outputs({"masks": logits})


FILE = """
import torch
from my_blocks import Block
from torch import nn

class Net(nn.Module):
    def __init__(self, n_classes, width=8):
        super().__init__()
        self.block, self.head = Block(width), nn.Conv2d(width, n_classes, 1)

    def forward(self, x):
        return {"out": self.head(self.block(x))}
"""
BLOCKS = """
from torch import nn

class Block(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(),
                         nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
"""
ELSEWHERE = """
import sys, torch
from models.checkpoint import load_checkpoint
model = load_checkpoint(sys.argv[1], factory=sys.argv[2] or None)
images = torch.linspace(-1, 1, 3 * 64 * 65).reshape(1, 3, 64, 65)
print(model(images).detach().double().sum().item())
"""


@pytest.fixture
def my_file(tmp_path: Path) -> Path:
    (tmp_path / "my_blocks.py").write_text(BLOCKS)
    (tmp_path / "my_net.py").write_text(FILE)
    return tmp_path / "my_net.py"


def test_a_network_in_a_file_loads_in_another_process(my_file: Path, tmp_path: Path):
    name = f"{my_file}:Net"
    model = create_model(name, num_classes=5, width=12).eval()
    prune(model, IMAGE, 0.5)
    path = tmp_path / "a.safetensors"
    save_checkpoint(path, model)
    images = torch.linspace(-1, 1, 3 * 64 * 65).reshape(1, 3, 64, 65)
    expected = model(images).detach().double().sum().item()

    def load(given: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", ELSEWHERE, str(path), given], capture_output=True, text=True,
            timeout=200, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        )  # fmt: skip

    assert float(load(name).stdout) == pytest.approx(expected, rel=1e-5)
    assert float(load("", SEGFRONT_MODULES=str(my_file)).stdout) == pytest.approx(
        expected, rel=1e-5
    )
    refused = load("")
    assert refused.returncode
    assert f"SEGFRONT_MODULES={my_file}" in refused.stderr


def test_a_network_loads_and_is_exported_although_its_file_has_moved(
    my_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr("models.resolving._allowed", set())
    path, output = tmp_path / "a.safetensors", tmp_path / "a.onnx"
    save_checkpoint(path, create_model(f"{my_file}:Net", num_classes=5).eval())
    moved = tmp_path / "elsewhere" / my_file.name
    moved.parent.mkdir()
    my_file.rename(moved)
    flags = [str(path), "--output", str(output), "--image-size", "64", "64"]
    assert export([*flags]) == 2
    assert f"--factory {my_file}:Net" in capsys.readouterr().err
    for other in (f"{moved}:Other", f"{tmp_path / 'my_blocks.py'}:Net", "espnet"):
        assert export([*flags, "--factory", other]) == 2
    assert export([*flags, "--factory", f"{moved}:Net"]) == 0
    assert load_checkpoint(path, factory=f"{moved}:Net").name == f"{moved}:Net"
    monkeypatch.setenv("SEGFRONT_MODULES", str(moved))
    assert export(flags) == 0


def test_the_hash_of_a_network_is_that_of_all_its_code(my_file: Path):
    name = f"{my_file}:Net"
    code = find_user_code(name)
    assert code is not None
    assert [str(f) for f in code.files] == ["my_blocks.py", "my_net.py"]
    (my_file.parent / "unrelated.py").write_text("1")
    assert find_user_code(name).compute_hash() == code.compute_hash()
    before = code.compute_hash()
    blocks = my_file.parent / "my_blocks.py"
    blocks.write_text(blocks.read_text() + "\n")
    assert code.compute_hash() != before
    package = my_file.parent / "my_package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "widths.json").write_text("[8, 16]")
    my_file.write_text(f"import my_package\n{my_file.read_text()}")
    before = find_user_code(name).compute_hash()
    (package / "widths.json").write_text("[8, 32]")
    assert find_user_code(name).compute_hash() != before
    assert find_user_code("espnet") is find_user_code("smp:Unet") is None


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("smp:unet", {"encoder_name": "tu-mobilenetv3_small_050"}),
        ("torchvision:lraspp_mobilenet_v3_large", {}),
        (
            "smp:unet",
            {
                "encoder_name": "tu-mobilenetv3_small_050",
                "decoder_attention_type": "scse",
                "decoder_use_norm": {"type": "instancenorm", "affine": True},
            },
        ),
    ],
    ids=str,
)
def test_networks_of_libraries_are_pruned_saved_and_loaded(
    name: str, kwargs: dict[str, object], tmp_path: Path
):
    model = create_model(name, num_classes=5, **kwargs)
    record = prune(model, IMAGE, 0.5)
    assert record.num_params_after < 0.3 * record.num_params_before
    unused = {"the forward pass never calls it"} if "decoder_attention_type" in kwargs else set()
    assert set(record.unprunable.values()) == unused
    save_checkpoint(tmp_path / "a.safetensors", model)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    images = torch.randn(1, 3, 72, 100)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model.eval()(images))


def test_torchvision_weights_with_another_head_are_saved_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    name = "torchvision:deeplabv3_mobilenet_v3_large"
    tensors = create_model(name, num_classes=21, aux_loss=True).network.state_dict()
    monkeypatch.setattr(
        "torchvision.models._api.WeightsEnum.get_state_dict", lambda *_, **__: tensors
    )
    model = create_model(name, num_classes=21, weights="DEFAULT")
    save_checkpoint(tmp_path / "a.safetensors", model)
    loaded = load_checkpoint(tmp_path / "a.safetensors")
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert any("aux_classifier" in key for key in loaded.state_dict())


def test_layers_that_only_a_download_brings_are_refused(monkeypatch: pytest.MonkeyPatch):
    def factory(num_classes: int, weights: object, weights_backbone: object) -> nn.Module:
        return foreign_networks.Plain(num_classes, depth=2 if weights else 1)

    monkeypatch.setattr("models.foreign.find_factory", lambda name: factory)
    with pytest.raises(ValueError, match=r"other layers .*body\.1\.0\.weight.*state the keywords"):
        create_model("torchvision:fcn_resnet50", num_classes=5, weights="DEFAULT")


def test_a_head_for_training_costs_nothing_in_use():
    name = "torchvision:deeplabv3_mobilenet_v3_large"
    model, alone = (
        create_model(name, num_classes=5, aux_loss=with_it) for with_it in (True, False)
    )
    assert count_cost(model, (3, 64, 96)).macs == count_cost(alone, (3, 64, 96)).macs
    assert len(model.train()(torch.zeros(2, 3, 64, 96)).auxiliary) == 1
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), model.network(images)["out"])


def test_groups_that_begin_at_the_same_layer_keep_their_own_shares():
    model = make("SharedFirstLayer")
    original = copy.deepcopy(model)
    for ratio in (0.25, 0.5):
        prune(model, IMAGE, ratio, original=original)
    network = model.get_submodule("network")
    assert [part[0].out_channels for part in (network.conv, network.a, network.b)] == [32, 24, 8]


@pytest.mark.parametrize("name", ["Auxiliary", "MultiplesOf32", "Shuffled"])
def test_a_pruned_network_is_exported(name: str, tmp_path: Path):
    model = make(name)
    prune(model, IMAGE, 0.5)
    size = (72, 100)
    export = export_onnx(model, tmp_path / "a.onnx", image_size=size)
    assert export.output_shape == (1, 5, *size)
    assert export.error < 1e-5


@pytest.mark.slow
def test_a_transformer_is_pruned_where_it_can_be():
    model = create_model("smp:Segformer", num_classes=5, encoder_name="mit_b0")
    record = prune(model, IMAGE, 0.5)
    assert record.num_params_after < 0.8 * record.num_params_before
    assert any("LayerNorm" in reason for reason in record.unprunable.values())
    assert "network.encoder.patch_embed1.proj" in record.unprunable


def test_outputs_choose_among_those_of_the_network(tmp_path: Path):
    model = create_model(f"{MODULE}:Plain", num_classes=5, outputs=[4, 0]).eval()
    images = torch.randn(1, 3, 64, 64)
    both = model(images)
    model.outputs = None
    assert torch.equal(both, model(images)[:, [4, 0]])
    model.outputs = (4, 0)
    save_checkpoint(tmp_path / "a.safetensors", model, {"note": json.dumps([1])})
    loaded = load_checkpoint(tmp_path / "a.safetensors", factory=f"{MODULE}:Plain")
    assert torch.equal(both, loaded(images))
    with pytest.raises(ValueError, match=r"each of outputs must be in 0\.\.4"):
        create_model(f"{MODULE}:Plain", num_classes=5, outputs=[5])


def test_pruning_says_when_a_network_does_not_run(caplog: pytest.LogCaptureFixture):
    model = make("Plain")
    model.network.body = nn.Sequential(nn.Conv2d(8, 16, 1))
    caplog.set_level(logging.INFO)
    with pytest.raises(PruningError, match="does not run on an image of 64 x 96: RuntimeError"):
        prune(model, IMAGE, 0.5)
