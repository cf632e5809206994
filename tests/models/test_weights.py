"""Weights as people save them: nested, prefixed, averaged, of other names, of other classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models import SegmentationNetwork, create_model
from models.checkpoint import load_checkpoint, save_checkpoint
from models.normalization import IMAGENET, Normalization
from models.pretrained.finding import load_weights
from models.pruning import prune
from models.resolving import UntrustedNetworkError
from trainables.network_config import NetworkConfig, NormalizationConfig

PLAIN = "tests.models.foreign_networks:Plain"


def make(num_classes: int = 5) -> SegmentationNetwork:
    return create_model(PLAIN, num_classes=num_classes)


@pytest.fixture
def trained() -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    tensors = make().network.state_dict()
    return {k: torch.rand_like(t) if t.is_floating_point() else t for k, t in tensors.items()}


def prefixed(prefix: str) -> Callable[[dict[str, Any]], Any]:
    return lambda tensors: {prefix + key: tensor for key, tensor in tensors.items()}


def is_statistic(name: str) -> bool:
    return name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked")


LAYOUTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "plain": lambda t: t,
    "state_dict": lambda t: {"epoch": 3, "state_dict": t, "optimizer": {"lr": 0.1}},
    "model": lambda t: {"model": t},
    "model_state_dict": lambda t: {"model_state_dict": t, "loss": 0.3},
    "nested twice": lambda t: {"checkpoint": 1, "model": {"state_dict": t}},
    "module.": prefixed("module."),
    "model.": prefixed("model."),
    "_orig_mod.": prefixed("_orig_mod."),
    "net.": prefixed("net."),
    "module.model.": prefixed("module.model."),
    "_orig_mod.module.": lambda t: {"state_dict": prefixed("_orig_mod.module.")(t)},
    "ours": prefixed("network."),
    "ema beside the last step": lambda t: {"model": {k: v * 0 for k, v in t.items()}, "ema": t},
    "model_ema": lambda t: {"state_dict": {k: v * 0 for k, v in t.items()}, "model_ema": t},
    "state_dict_ema": lambda t: {"state_dict": {}, "state_dict_ema": prefixed("module.")(t)},
    "an EMA without names": lambda t: {
        "ema": {"decay": torch.tensor(0.9), "shadow_params": list(t.values())},
        "state_dict": t,
    },
    "an EMA one level deeper": lambda t: {
        "ema": {"decay": 0.9, "shadow": t},
        "model": {k: v * 0 for k, v in t.items()},
    },
    "an EMA of parameters alone": lambda t: {
        "ema": {k: v for k, v in t.items() if not is_statistic(k)},
        "model": {k: v if is_statistic(k) else v * 0 for k, v in t.items()},
    },
    "an EMA under a prefix": lambda t: {
        **prefixed("model.")({k: v * 0 for k, v in t.items()}),
        **prefixed("ema.")(t),
    },
    "beside a larger network": lambda t: {
        **{f"teacher.layers.{i}.weight": torch.zeros(1) for i in range(100)},
        **prefixed("student.")(t),
    },
    "without counters": lambda t: {k: v for k, v in t.items() if "num_batches" not in k},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_weights_are_found_however_they_lie(
    layout: str, trained: dict[str, torch.Tensor], tmp_path: Path
):
    torch.save(LAYOUTS[layout](trained), tmp_path / "weights.pth")
    model = make()
    load_weights(model, tmp_path / "weights.pth")
    for key, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, trained[key]) or "num_batches" in key, key


def test_safetensors_are_read_too(trained: dict[str, torch.Tensor], tmp_path: Path):
    save_file({f"module.{k}": t for k, t in trained.items()}, tmp_path / "a.safetensors")
    model = NetworkConfig(name=PLAIN, weights=str(tmp_path / "a.safetensors")).build(5)
    assert torch.equal(model.network.head.weight, trained["head.weight"])


def test_every_wrong_name_is_listed(trained: dict[str, torch.Tensor], tmp_path: Path):
    del trained["stem.0.weight"]
    trained["extra"] = torch.zeros(1)
    trained["body.0.0.weight"] = torch.zeros(2, 2)
    torch.save(trained, tmp_path / "a.pth")
    model = make()
    before = model.network.head.weight.clone()
    with pytest.raises(
        ValueError, match=r"(?s)missing: stem\.0\.weight.*extra.*body\.0\.0\.weight"
    ):
        load_weights(model, tmp_path / "a.pth")
    assert torch.equal(model.network.head.weight, before)


def test_all_of_many_wrong_names_are_listed(tmp_path: Path):
    torch.save({f"layer{i}": torch.zeros(1) for i in range(30)}, tmp_path / "a.pth")
    with pytest.raises(ValueError) as caught:
        load_weights(make(), tmp_path / "a.pth")
    assert all(f"layer{i}" in str(caught.value) for i in range(30))
    assert all(key in str(caught.value) for key in ("stem.0.weight", "head.bias"))


def test_other_classes_are_named_and_left_out_on_request(
    trained: dict[str, torch.Tensor], tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    torch.save(trained, tmp_path / "a.pth")
    model = make(3)
    with pytest.raises(
        ValueError, match=r"head\.weight \(5, 16, 1, 1\) instead of \(3, 16, 1, 1\)"
    ):
        load_weights(model, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth", new_classes=True)
    assert torch.equal(model.network.stem[0].weight, trained["stem.0.weight"])
    assert "head.weight" in caplog.text
    config = NetworkConfig(name=PLAIN, weights=str(tmp_path / "a.pth"), num_outputs=5)
    images = torch.randn(1, 3, 64, 64)
    whole = NetworkConfig(name=PLAIN, weights=str(tmp_path / "a.pth")).build(5).eval()(images)
    assert torch.equal(config.build(3).eval()(images), whole[:, :3])


def test_new_class_layers_need_not_be_in_the_file(trained: dict[str, torch.Tensor], tmp_path: Path):
    inner = {key: tensor for key, tensor in trained.items() if not key.startswith("head.")}
    torch.save(inner, tmp_path / "a.pth")
    model = make(3)
    with pytest.raises(ValueError, match=r"head\.weight"):
        load_weights(model, tmp_path / "a.pth")
    load_weights(model, tmp_path / "a.pth", new_classes=True)
    assert torch.equal(model.network.stem[0].weight, trained["stem.0.weight"])


def test_class_layers_are_new_on_request_for_as_many_classes_too(
    trained: dict[str, torch.Tensor], tmp_path: Path
):
    torch.save(trained, tmp_path / "a.pth")
    model = make()
    load_weights(model, tmp_path / "a.pth")
    save_checkpoint(tmp_path / "a.safetensors", model)
    for name in ("a.pth", "a.safetensors"):
        config = NetworkConfig(name=PLAIN, weights=str(tmp_path / name), new_classes=True)
        renewed = config.build(5).network
        assert torch.equal(renewed.stem[0].weight, trained["stem.0.weight"])
        assert not torch.equal(renewed.head.weight, trained["head.weight"])


def test_inner_layers_that_depend_on_the_classes_are_named_with_the_remedy(tmp_path: Path):
    torch.save(create_model("espnet", 12).state_dict(), tmp_path / "a.pth")
    config = NetworkConfig(name="espnet", weights=str(tmp_path / "a.pth"), new_classes=True)
    with pytest.raises(
        ValueError, match=r"classifier\.weight .*\(num_outputs\) and which"
    ) as error:
        config.build(5)
    assert "level2_merge.0.0.weight (24,) instead of (10,)" in str(error.value)
    replace(config, num_outputs=12).build(5)


@pytest.mark.parametrize("content", [{}, {"epoch": 3}, [torch.zeros(1)], {"model": {"x": 1}}])
def test_a_file_without_tensors_says_what_it_holds(content: Any, tmp_path: Path):
    torch.save(content, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="must hold tensors by name"):
        load_weights(make(), tmp_path / "a.pth")


def test_whole_objects_are_refused_with_the_remedy(tmp_path: Path):
    torch.save(nn.Conv2d(3, 3, 1), tmp_path / "a.pth")
    (tmp_path / "b.pth").write_text("no weights")
    for name in ("a.pth", "b.pth"):
        with pytest.raises(
            ValueError, match=r"cannot be read as a file of tensors only.*state_dict"
        ):
            load_weights(make(), tmp_path / name)
    with pytest.raises(ValueError, match="there is no"):
        load_weights(make(), tmp_path / "c.pth")


def test_weights_of_known_sources_are_found_by_their_names(tmp_path: Path):
    torch.manual_seed(0)
    source = create_model("lraspp_mobilenet_v3_large", num_classes=5)
    tensors = {k.removeprefix("network."): t for k, t in source.state_dict().items()}
    torch.save({"model": tensors}, tmp_path / "a.pth")
    model = create_model("lraspp_mobilenet_v3_large", num_classes=5)
    load_weights(model, tmp_path / "a.pth")
    assert all(torch.equal(t, source.state_dict()[k]) for k, t in model.state_dict().items())


def test_a_pruned_checkpoint_brings_its_structure(tmp_path: Path):
    model = make()
    model.normalization = Normalization(mean=(1.0, 2.0, 3.0), scale=1.0, channel_order="bgr")
    prune(model, torch.zeros(1, 3, 64, 64), 0.5)
    save_checkpoint(tmp_path / "a.safetensors", model)
    weights = str(tmp_path / "a.safetensors")
    built = NetworkConfig(name=PLAIN, weights=weights).build(5)
    assert built.training
    assert built.network.stem[0].out_channels == 8
    assert built.normalization == model.normalization
    changed = NetworkConfig(
        name=PLAIN, weights=weights, normalization=NormalizationConfig(channel_order="rgb")
    )
    assert changed.build(5).normalization.mean == (1.0, 2.0, 3.0)
    assert changed.build(5).normalization.channel_order == "rgb"
    with pytest.raises(ValueError, match=r"has 5 classes, but the data have 3.*new_classes"):
        NetworkConfig(name=PLAIN, weights=weights).build(3)
    renewed = NetworkConfig(name=PLAIN, weights=weights, new_classes=True).build(3)
    assert renewed(torch.zeros(2, 3, 64, 64)).shape[1] == 3
    save_checkpoint(tmp_path / "b.safetensors", renewed)
    assert load_checkpoint(tmp_path / "b.safetensors", PLAIN).network.head.out_channels == 3
    chosen = NetworkConfig(name=PLAIN, weights=weights, outputs=(4, 2)).build(2)
    assert chosen(torch.zeros(2, 3, 64, 64)).shape[1] == 2
    with pytest.raises(ValueError, match=r"has a network with 5 outputs.*instead of 6"):
        NetworkConfig(name=PLAIN, weights=weights, num_outputs=6).build(3)
    with pytest.raises((ValueError, UntrustedNetworkError), match=r"Plain"):
        NetworkConfig(name="enet", weights=weights).build(5)


def test_two_networks_never_have_one_key():
    first = NetworkConfig()
    others = {
        "name": "enet", "kwargs": {"depth": 2}, "new_classes": True, "num_outputs": 7,
        "outputs": (1, 0), "normalization": NormalizationConfig(scale=1.0), "backbone": "resnet18",
        "backbone_weights": "imagenet", "width": 0.5, "output_stride": 8, "decoder_channels": 32,
        "auxiliary": True,
    }  # fmt: skip
    assert {*others, "weights"} == set(NetworkConfig.__dataclass_fields__)
    keys = [str(NetworkConfig(**{k: v}).content()) for k, v in others.items()]
    assert len({str(first.content()), *keys}) == len(others) + 1


def test_kwargs_are_json_and_cannot_change():
    config = NetworkConfig(name=PLAIN, kwargs={"depth": 3})
    assert hash(config) == hash(NetworkConfig(name=PLAIN, kwargs={"depth": 3}))
    assert len(config.build(5).network.body) == 3
    for wrong in ({"depth": object()}, [3]):
        with pytest.raises(ValueError, match="kwargs must be a JSON object"):
            NetworkConfig(name=PLAIN, kwargs=wrong)


@pytest.mark.parametrize("key", ["num_classes", "classes", "n_classes", "outputs", "name"])
def test_kwargs_do_not_say_again_what_a_field_says(key: str):
    for name in (PLAIN, "enet", "smp:Unet"):
        with pytest.raises(ValueError, match=f"kwargs must leave out {key}: .*got 3"):
            NetworkConfig(name=name, kwargs={key: 3})


def test_normalisation_by_hand():
    images = torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1)
    bgr = Normalization(mean=(1.0, 2.0, 3.0), std=(1.0, 2.0, 4.0), scale=10.0, channel_order="bgr")
    assert bgr(images).flatten().tolist() == [2.0, 0.0, -0.5]
    assert Normalization.from_json(bgr.to_json()) == bgr
    assert images.flatten().tolist() == [10, 20, 30]
    assert NormalizationConfig().complete(IMAGENET) == IMAGENET
    with pytest.raises(ValueError, match="std and scale must be above 0"):
        NormalizationConfig(std=(0.0, 1.0, 1.0))
    with pytest.raises(ValueError, match="channel_order must be 'rgb' or 'bgr', got 'gbr'"):
        NormalizationConfig(channel_order="gbr")
