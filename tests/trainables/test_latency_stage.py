"""The latencies of a study: stated at one speed, whatever that of the machine is meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import pytest
from torch import nn

from models import create_model, latency
from models.checkpoint import save_checkpoint
from models.engines import EngineSettings
from trainables.artifacts.store import ArtifactStore
from trainables.chain import find_structure, make_chain
from trainables.network_config import NetworkConfig
from trainables.pipeline import StageResult, build_stages, run_baseline, run_stage
from trainables.pipeline_config import LatencyConfig
from trainables.stages import timing
from trainables.stages.latency import ArchitectureLatency
from trainables.stages.reference import ReferenceStage

TIMED = ("dense", "sparse", "pruned", "latency")


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "stages")


@pytest.fixture
def machine(monkeypatch):
    """A machine on which a network takes a microsecond per parameter, times its slowness."""

    class Machine:
        slowness = 1.0

        def open_session(self, engine, model, input_shape, settings):
            cost_ms = sum(p.numel() for p in model.parameters()) / 1e3
            return Timed(lambda: cost_ms * self.slowness)

    class Timed(NamedTuple):
        run: Callable[[], float]
        image_dtype: str = "uint8"

        def make_run(self, images):
            return self.run

    machine = Machine()
    monkeypatch.setattr(latency, "open_session", machine.open_session)
    return machine


def read(store, stage):
    folders = list(store.root.glob(f"{stage}-*"))
    return [store.find(*folder.name.split("-")).result for folder in folders]


def test_a_study_states_its_latencies_at_one_speed(tiny_config, context, store, machine):
    dense = run_baseline("dense", tiny_config, store, context)
    assert dense.latency_ms == pytest.approx(dense.latency_raw_ms)
    machine.slowness = 1.5
    chain = make_chain(TIMED, pruning_ratio=0.2)
    pruned = run_stage(tiny_config, chain, store, context).metrics
    assert pruned["latency_raw_ms"] == pytest.approx(1.5 * pruned["latency_ms"])
    assert pruned["reference_ms"] == pytest.approx(1.5 * dense.reference_ms)
    ratio = read(store, "latency")[0]["nominal_ms"] / dense.latency_ms
    assert ratio == pytest.approx(1)
    # The next session, at yet another speed, finds the same nominal latency.
    machine.slowness = 0.7
    again = ArtifactStore(store.root)
    chain = make_chain(TIMED, pruning_ratio=0.6)
    smaller = run_stage(tiny_config, chain, again, context).metrics
    assert smaller["reference_ms"] == pytest.approx(0.7 * dense.reference_ms)
    (reference,) = read(store, "reference")
    nominal = {result["nominal_ms"] for result in read(store, "latency")}
    assert nominal == {reference["median_ms"]}
    assert reference["reference_ms"] is None
    speeds = {result["raw_ms"] / result["median_ms"] for result in read(store, "latency")}
    assert sorted(speeds) == pytest.approx([0.7, 1.0, 1.5])


def test_the_clock_alone_is_used_on_demand(tiny_config, context, store, machine):
    latency = replace(tiny_config.latency, compensate_drift=False)
    config = replace(tiny_config, latency=latency)
    dense = run_baseline("dense", config, store, context)
    assert dense.latency_ms == dense.latency_raw_ms
    assert dense.reference_ms is None
    metrics = run_stage(config, make_chain(TIMED), store, context).metrics
    assert "reference_ms" not in metrics
    assert not read(store, "reference")
    assert read(store, "latency")[0]["nominal_ms"] is None


def test_the_reference_is_the_student_without_its_weights(tiny_config):
    student = replace(tiny_config.student, backbone_weights="gone.safetensors")
    stages = [
        ReferenceStage(network, 19, (64, 96), config, "cpu")
        for network, config in [
            (student, LatencyConfig()),
            (tiny_config.student, LatencyConfig()),
            (replace(student, width=0.25), LatencyConfig()),
            (student, LatencyConfig(num_threads=2)),
        ]
    ]
    keys = [stage.key for stage in stages]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 3
    first, second = (dict(stages[0].build().named_parameters()) for _ in range(2))
    assert all(first[name].equal(second[name]) for name in first)


def test_a_latency_belongs_to_its_reference(tiny_config, context, store):
    run_baseline("dense", tiny_config, store, context)
    wider = replace(tiny_config, student=replace(tiny_config.student, width=0.25))
    teacher_there = replace(wider, teacher=tiny_config.student)
    run_baseline("teacher", teacher_there, store, context)
    first, second = (build_stages(c, make_chain(("dense",)))[0] for c in (tiny_config, wider))
    assert first.key != second.key
    nominal = {result["nominal_ms"] for result in read(store, "latency")}
    assert len(nominal) == 2


@pytest.mark.parametrize("engine", ["auto", "onnxruntime"])
def test_the_engine_is_part_of_what_is_measured(tiny_config, context, store, engine):
    config = replace(tiny_config, latency=replace(tiny_config.latency, engine=engine))
    run_baseline("dense", config, store, context)
    run_baseline("dense", tiny_config, store, context)
    names = sorted(result["engine"]["name"] for result in read(store, "latency"))
    assert names == ["onnxruntime", "pytorch"]
    (file,) = store.root.glob("reference-*/network.onnx")
    assert file.stat().st_size > 0


def test_the_code_of_a_users_network_is_part_of_what_is_measured(tmp_path, context):
    source, checkpoint = tmp_path / "plain.py", tmp_path / "a.safetensors"
    source.write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    return nn.Conv2d(3, num_classes, 3, stride=1, padding=1)\n"
    )
    network = NetworkConfig(name=f"{source}:make")
    save_checkpoint(checkpoint, network.build(5))

    def describe():
        return ArchitectureLatency(checkpoint, (64, 96), LatencyConfig(), "cpu").content()

    before = describe()
    source.write_text(source.read_text().replace("stride=1", "stride=2"))
    assert before != describe()
    save_checkpoint(checkpoint, create_model("fast_scnn", 5))
    assert "code" not in describe()


@pytest.mark.parametrize("engine", ["auto", "openvino", "tensorrt"])
def test_another_host_measures_on_its_own_device(context, monkeypatch, engine):
    found = {}

    def measure(model, shape, device, *_, **__):
        found["measured"] = device
        return EngineSettings(device=device)  # any dataclass

    def describe_host(host, name, items):
        found["described"] = dict(items)["device"]
        return {"engine": name, "hardware": {}}

    monkeypatch.setattr(timing, "describe_host", describe_host)
    monkeypatch.setattr(timing, "measure_latency", measure)
    config = LatencyConfig(engine=engine, host="pi@raspberry")
    timing.describe_measurement(config, "cuda")
    timing.measure_alone(nn.Identity(), (64, 96), config, "cuda", context)
    expected = "cuda" if engine == "tensorrt" else "cpu"
    assert found == {"described": expected, "measured": expected}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_threads": 0}, "latency.num_threads must be at least 1, got 0"),
        ({"batch_size": -1}, "latency.batch_size must be at least 1, got -1"),
        ({"resolution": (0, 96)}, r"latency.resolution must be at least 1 x 1, got \(0, 96\)"),
        ({"confidence": 1.0}, r"latency.confidence must .* got 1.0"),
        ({"relative_margin": 0.0}, "latency.relative_margin must be greater than 0, got 0.0"),
        ({"max_seconds": float("nan")}, "latency.max_seconds must be greater than 0, got nan"),
        (
            {"engine": "pytorch", "host": "u@h"},
            "u@h cannot measure it: choose onnx",
        ),
    ],
)
def test_a_measurement_that_cannot_be_is_refused_before_any_training(changes, message):
    with pytest.raises(ValueError, match=message):
        LatencyConfig(**changes)


TWICE = (
    *make_chain(("dense", "sparse", "pruned"), pruning_ratio=0.2),
    *make_chain(("dense", "sparse", "pruned", "distilled"), distiller="none")[-1:],
    *make_chain(TIMED, pruning_ratio=0.6)[-2:],
)


@pytest.mark.parametrize(
    "chain",
    [
        make_chain(TIMED, pruning_ratio=0.3),
        make_chain(TIMED, pruning_ratio=0.45, round_to=4, importance="group_l2"),
        TWICE,
    ],
    ids=["local", "rounded", "twice"],
)
def test_a_latency_measured_ahead_is_that_of_the_trained_network(
    tiny_config, context, store, machine, chain
):
    assert find_structure(chain[:-1])
    assert run_stage(tiny_config, chain, store, context, is_ahead=True) == StageResult()
    (ahead,) = read(store, "latency")
    assert not list(store.root.glob("dense-*"))
    for length in range(1, len(chain)):
        run_stage(tiny_config, chain[:length], store, context)
    machine.slowness = 9.0  # would be seen if it were measured again
    timed = run_stage(tiny_config, chain, store, context)
    assert timed.metrics["latency_ms"] == ahead["median_ms"]
    assert timed.seconds == {"latency": 0.0}


@pytest.mark.parametrize("scope", ["global", "sensitivity"])
def test_a_structure_that_the_weights_decide_is_not_known_ahead(tiny_config, context, store, scope):
    chain = make_chain(TIMED, scope=scope)
    assert find_structure(chain[:-1]) is None
    with pytest.raises(ValueError, match=f"scope {scope} lets the weights decide"):
        run_stage(tiny_config, chain, store, context, is_ahead=True)


def test_chains_of_one_structure_are_described_alike():
    chains = [
        make_chain(TIMED, pruning_ratio=0.3, sparsity_lambda=1e-3),
        make_chain(TIMED, pruning_ratio=0.3, importance="taylor"),
        make_chain(TIMED, pruning_ratio=0.3, round_to=8),
        make_chain(TIMED, pruning_ratio=0.4),
        TWICE,
    ]
    found = [find_structure(chain) for chain in chains]
    assert found[0] == found[1]
    assert len(set(found)) == 4
