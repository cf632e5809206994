"""Latency: a known delay is found, and nothing is left changed."""

from __future__ import annotations

import json
import math
import time
import weakref
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from models import create_model
from models.engines.batchnorm_folding import fold_batchnorms
from models.engines.pytorch import prepare
from models.engines.settings import EngineSettings
from models.hardware import bfloat16_is_fast, describe_hardware
from models.latency import measure_latency
from models.timing.median_interval import compute_median_interval


class Sleeper(nn.Module):
    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, images: Tensor) -> Tensor:
        time.sleep(self.seconds)
        return images


def test_a_known_delay_is_found():
    latency = measure_latency(Sleeper(0.01), (3, 8, 6), batch_size=2, relative_margin=0.2)
    assert 10 <= latency.median_ms < 30
    assert latency.p95_ms >= latency.median_ms
    low, high = latency.interval_ms
    assert low <= latency.median_ms <= high
    assert latency.is_precise
    assert latency.num_runs >= 20
    assert (latency.resolution, latency.batch_size) == ((8, 6), 2)
    assert (latency.device, latency.dtype) == ("cpu", "float32")
    assert json.loads(json.dumps(asdict(latency)))["hardware"]["cpu"]


def test_the_budget_ends_an_imprecise_measurement():
    latency = measure_latency(
        Sleeper(0.001), (3, 8, 8), relative_margin=1e-9, min_runs=5, max_runs=12
    )
    assert latency.num_runs == 12
    assert not latency.is_precise
    start = time.monotonic()
    latency = measure_latency(
        Sleeper(0.02), (3, 8, 8), relative_margin=1e-9, min_runs=5, max_seconds=0.2
    )
    assert time.monotonic() - start < 5
    assert 5 <= latency.num_runs < 100


def test_nothing_is_left_changed():
    model = create_model("dual_branch", num_classes=3, backbone="tu-resnet18d", width=0.25)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    threads = torch.get_num_threads()
    latency = measure_latency(
        model, (3, 64, 64), num_threads=1, min_runs=3, max_runs=3, fold_batchnorm=True
    )
    assert latency.num_threads == 1
    assert latency.median_ms > 0
    assert torch.get_num_threads() == threads
    assert model.training
    assert all(torch.equal(before[key], t) for key, t in model.state_dict().items())
    assert model.detail[0][0].weight.is_contiguous()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "int8"}, "dtype must be one of float32, bfloat16, float16; got 'int8'"),
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"num_threads": 0}, "num_threads must be at least 1, got 0"),
        ({"confidence": 1.0}, r"confidence must be in \(0, 1\)"),
        ({"relative_margin": 0}, "relative_margin above 0"),
        ({"min_runs": 10, "max_runs": 5}, "min_runs <= max_runs"),
    ],
)
def test_wrong_arguments_say_what_is_allowed(arguments: dict[str, Any], message: str):
    with pytest.raises(ValueError, match=message):
        measure_latency(Sleeper(0), (3, 8, 8), **arguments)


@pytest.mark.parametrize(
    ("size", "confidence", "ranks"),
    # Tables of the sign test: 6 values give 96.9 %, 10 values ranks 2 and 9 (97.9 %), ...
    [(5, 0.95, None), (6, 0.95, (1, 6)), (10, 0.95, (2, 9)), (20, 0.95, (6, 15)),
     (100, 0.95, (40, 61)), (3000, 0.95, (1446, 1555))],
)  # fmt: skip
def test_median_interval_by_hand(size: int, confidence: float, ranks: tuple[int, int] | None):
    values = np.arange(1.0, size + 1)
    expected = (-math.inf, math.inf) if ranks is None else tuple(map(float, ranks))
    assert compute_median_interval(values, confidence) == expected


@settings(max_examples=50)
@given(st.lists(st.floats(0.1, 100), min_size=6, max_size=60), st.floats(0.5, 0.96))
def test_median_interval_holds_the_median(values: list[float], confidence: float):
    low, high = compute_median_interval(values, confidence)
    assert low <= np.median(values) <= high


@pytest.mark.parametrize("name", ["dual_branch", "lraspp_mobilenet_v3_large"])
def test_folding_keeps_the_function(name: str):
    torch.manual_seed(0)
    kwargs = {"backbone": "tu-tf_efficientnet_lite0", "width": 0.25} if "dual" in name else {}
    model = create_model(name, num_classes=3, **kwargs)
    images = torch.randn(2, 3, 64, 64)
    model(images)
    model.eval()
    with torch.inference_mode():
        expected = model(images)
        count = sum(isinstance(m, nn.BatchNorm2d) for m in model.modules())
        assert fold_batchnorms(model, images) == count
        found = model(images)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    scale = expected.abs().max()
    torch.testing.assert_close(found / scale, expected / scale, rtol=0, atol=1e-4)


class NamesTwice(nn.Module):
    """Registers the layers of its encoder again, as AlbuNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.first = nn.Sequential(*self.encoder, nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        return self.first(images)


def test_a_layer_of_two_names_is_folded_under_both():
    model, images = NamesTwice().eval(), torch.randn(1, 3, 8, 8)
    nn.init.constant_(model.encoder[1].weight, 3.0)
    expected = model(images)
    assert fold_batchnorms(model, images) == 1
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)


class ConvNorm(nn.Module):
    """A convolution and a BatchNorm, and something in between that the subclasses vary."""

    def __init__(self, conv: nn.Module | None = None, **options: Any) -> None:
        super().__init__()
        self.conv, self.norm = conv or nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, **options)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images))


class ReadTwice(ConvNorm):
    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        return self.norm(features) + features


class ChangedInPlace(ConvNorm):
    def forward(self, images: Tensor) -> Tensor:
        return self.norm(nn.functional.relu(self.conv(images), inplace=True))


class PreActivated(ConvNorm):
    """A residual block that normalises its sum."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        features += images
        return self.norm(features)


class Standardised(nn.Conv2d):
    """A convolution that computes with other weights than its own."""

    def forward(self, images: Tensor) -> Tensor:
        weight = self.weight / self.weight.norm()
        return self._conv_forward(images, weight, self.bias)


@pytest.mark.parametrize(
    "make",
    [
        ReadTwice,
        ChangedInPlace,
        PreActivated,
        lambda: ConvNorm(Standardised(3, 3, 1)),
        lambda: ConvNorm(spectral_norm(nn.Conv2d(3, 3, 1))),
        lambda: ConvNorm(track_running_stats=False),
    ],
    ids=["twice", "in place", "sum", "standardised", "spectral", "no statistics"],
)
def test_what_cannot_be_folded_is_left_and_the_rest_is_folded(make: Callable[[], ConvNorm]):
    torch.manual_seed(0)
    odd = make()
    model = nn.Sequential(ConvNorm(), odd, ConvNorm(), ConvNorm())
    for part in model:
        nn.init.uniform_(part.norm.weight, 2.0, 3.0)
        nn.init.uniform_(part.norm.bias, -1.0, 1.0)
    model.eval()
    images = torch.randn(1, 3, 8, 8)
    with torch.inference_mode():
        expected = model(images)
        assert fold_batchnorms(model, images) == 3
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-4)
    assert isinstance(odd.norm, nn.BatchNorm2d)


def test_what_is_not_folded_is_counted_in_a_warning(caplog: pytest.LogCaptureFixture):
    model = nn.Sequential(ConvNorm(), ReadTwice(), ConvNorm()).eval()
    for part in model:
        nn.init.uniform_(part.norm.weight, 2.0, 3.0)
    fold_batchnorms(model, torch.randn(1, 3, 8, 8))
    assert "1 of 3 BatchNorms are not folded" in caplog.text


class RoundsAway(ConvNorm):
    """Has a large mean, which hides the output of the convolution in 16 bits."""

    def __init__(self) -> None:
        super().__init__()
        nn.init.constant_(self.conv.bias, 1000.0)
        nn.init.constant_(self.norm.running_mean, 1000.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rounding_in_16_bits_does_not_decide_what_is_folded(dtype: str):
    torch.manual_seed(0)
    settings = EngineSettings(dtype=dtype, fold_batchnorm=True)
    ready = prepare(nn.Sequential(RoundsAway(), ConvNorm()), (2, 3, 8, 8), settings)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in ready.modules())
    assert {parameter.dtype for parameter in ready.parameters()} == {getattr(torch, dtype)}


class HoldsNoOutput(ConvNorm):
    """Checks that the output of its convolution is freed as soon as it is not needed."""

    def forward(self, images: Tensor) -> Tensor:
        features = self.conv(images)
        normal, freed = self.norm(features), weakref.ref(features)
        del features
        assert freed() is None
        unread = self.conv(images)
        freed = weakref.ref(unread)
        del unread
        assert freed() is None
        return normal


def test_folding_holds_no_outputs():
    assert fold_batchnorms(HoldsNoOutput().eval(), torch.randn(1, 3, 8, 8)) == 0


def test_a_network_without_batchnorms_is_not_run():
    assert fold_batchnorms(ConvNorm(track_running_stats=False).eval(), torch.randn(1, 9, 8, 8)) == 0


def test_only_a_network_in_eval_mode_is_folded():
    with pytest.raises(ValueError, match="eval mode"):
        fold_batchnorms(ConvNorm(), torch.randn(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx2": True, "avx512_bf16": False}, False),
        ({"avx512_bf16": True}, True),
        ({"amx_bf16": True}, True),
        ({"bf16": True}, True),
        ({}, False),
    ],
)
def test_bfloat16_follows_the_cpu(
    features: dict[str, bool], expected: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert bfloat16_is_fast("cpu") is expected
    assert bfloat16_is_fast("meta") is False


def test_hardware_is_described():
    description = describe_hardware("cpu")
    assert description["cpu"]
    assert description["memory_bytes"] > 2**28
    assert description["num_cpus"] >= 1
    json.dumps(description)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_latency_on_a_gpu():
    model = create_model("dual_branch", num_classes=3, backbone="tu-resnet18d", width=0.25)
    latency = measure_latency(model, (3, 128, 128), "cuda", "bfloat16", fold_batchnorm=True)
    assert latency.median_ms > 0
    assert latency.hardware["gpu"]
    assert next(model.parameters()).device.type == "cpu"
