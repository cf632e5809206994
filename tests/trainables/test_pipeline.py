import itertools
import json
import math
import re
from dataclasses import replace

import pytest
import torch
from PIL import Image

from models.checkpoint import CheckpointError, load_checkpoint, read_metadata, save_checkpoint
from models.engines import EngineError
from models.pruning import PruningError
from trainables.artifacts.store import ArtifactStore
from trainables.chain import (
    build_chain,
    flatten_chain,
    make_chain,
    make_settings,
    override_settings,
)
from trainables.data import optical_flow
from trainables.data_source import DataConfig
from trainables.network_config import NetworkConfig
from trainables.pipeline import (
    build_baselines,
    build_stages,
    check_data,
    run_baseline,
    run_pipeline,
    run_stage,
)
from trainables.pipeline_config import DEFAULT_STAGES, LatencyConfig
from trainables.run import main
from trainables.stages import consistency
from trainables.stages.deployed_file import DeployedFile
from trainables.stages.given import GivenStage
from trainables.stages.learning import Learning
from trainables.stages.pruned import PrunedSettings, PrunedStage
from trainables.stages.sparse import add_l1_subgradient, batchnorm_scales

NETWORKS = ("dense", "sparse", "pruned", "distilled")


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "stages")


def stages_of(config, chain, **options):
    return {stage.name: stage for stage in build_stages(config, chain, **options)}


def up_to(chain, name):
    return chain[: [step.stage for step in chain].index(name) + 1]


def dense_of(config):
    return stages_of(config, make_chain())["dense"]


def teacher_of(config):
    return build_stages(config, build_baselines(config)["teacher"])[0]


def test_a_pipeline_measures_what_it_promises(tiny_config, context, store):
    result = run_pipeline(tiny_config, make_chain(), store, context)
    assert set(result.stages) == set(DEFAULT_STAGES)
    assert result.network == result.stages["distilled"]
    measured = {"miou", "miou_pruned", "num_params", "macs"}
    measured |= {"latency_ms", "latency_p95_ms", "latency_raw_ms", "reference_ms"}
    assert measured <= set(result.metrics)
    dense = run_baseline("dense", tiny_config, store, context)
    assert 0.2 * dense.num_params < result.metrics["num_params"] < 0.35 * dense.num_params
    assert result.metrics["macs"] < dense.macs
    model = load_checkpoint(store.root / result.stages["distilled"] / "checkpoint.safetensors")
    assert sum(p.numel() for p in model.parameters()) == result.metrics["num_params"]
    assert model(torch.zeros(1, 3, 64, 96)).shape == (1, 19, 64, 96)
    metadata = read_metadata(store.root / result.stages["distilled"] / "checkpoint.safetensors")
    assert len(metadata["classes"]) == 19


def test_equal_stages_are_computed_once(tiny_config, context, store):
    first = run_pipeline(tiny_config, make_chain(temperature=2.0), store, context)
    second = run_pipeline(tiny_config, make_chain(temperature=3.0), store, context)
    assert all(seconds > 0 for seconds in first.seconds.values())
    reused = {name for name, seconds in second.seconds.items() if seconds == 0}
    assert reused == {"dense", "sparse", "pruned", "latency"}
    again = run_pipeline(tiny_config, make_chain(temperature=3.0), store, context)
    assert set(again.seconds.values()) == {0.0}
    assert again.metrics == second.metrics


def test_a_pause_changes_nothing(tiny_config, context, store, tmp_path):
    settings = make_chain()
    through = run_pipeline(tiny_config, settings, ArtifactStore(tmp_path / "through"), context)
    paused = run_stage(tiny_config, settings, store, context, share=0.5)
    assert paused.metrics.keys() == {"miou@0.5"}
    assert store.find("distilled", stages_of(tiny_config, settings)["distilled"].key) is None
    again = run_stage(tiny_config, settings, store, context, share=0.5)
    assert again == paused
    ended = run_stage(tiny_config, settings, store, context)
    assert ended.metrics["miou"] == through.metrics["miou"]
    assert run_stage(tiny_config, settings, store, context, share=0.5) == paused
    networks = [
        root / result.stages["distilled"] / "checkpoint.safetensors"
        for root, result in ((store.root, ended), (tmp_path / "through", through))
    ]
    first, second = (load_checkpoint(path).state_dict() for path in networks)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_fine_tuning_seed_changes_the_fine_tuning_alone(tiny_config, context, store):
    settings = make_chain()
    first = run_pipeline(tiny_config, settings, store, context)
    again = run_stage(tiny_config, settings, store, context, fine_tuning_seed=1)
    assert again.stages["distilled"] != first.stages["distilled"]
    assert again.seconds["distilled"] > 0
    stages = stages_of(tiny_config, settings, fine_tuning_seed=1)
    shared = {f"{name}-{stages[name].key}" for name in NETWORKS[:-1]}
    assert shared == {first.stages[name] for name in NETWORKS[:-1]}
    folders = [result.stages["distilled"] for result in (first, again)]
    one, other = (
        load_checkpoint(store.root / folder / "checkpoint.safetensors").state_dict()
        for folder in folders
    )
    assert one.keys() == other.keys()
    assert all(one[name].shape == other[name].shape for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    found = run_stage(tiny_config, settings, store, context, fine_tuning_seed=1)
    assert found.metrics == again.metrics
    assert found.seconds["distilled"] == 0


def test_other_stages_do_not_pause(tiny_config, context, store):
    with pytest.raises(NotImplementedError, match="sparse cannot pause"):
        run_stage(tiny_config, up_to(make_chain(), "sparse"), store, context, share=0.5)


def test_every_setting_changes_the_key_of_its_stage_and_of_those_after_it(tiny_config):
    base = {n: s.key for n, s in stages_of(tiny_config, make_chain()).items() if n in NETWORKS}
    for change, first in [
        ({"sparsity_lambda": 1e-3}, "sparse"),
        ({"pruning_ratio": 0.3}, "pruned"),
        ({"scope": "global"}, "pruned"),
        ({"round_to": 8}, "pruned"),
        ({"temperature": 2.0}, "distilled"),
        ({"alpha": 0.5}, "distilled"),
        ({"beta": 2.0}, "distilled"),
        ({"eta": 2.0}, "distilled"),
        ({"lr": 0.1}, "distilled"),
        ({"distiller": "none"}, "distilled"),
    ]:
        chain = make_chain(**change)
        stages = stages_of(tiny_config, chain)
        changed = tuple(name for name in NETWORKS if stages[name].key != base[name])
        assert changed == NETWORKS[NETWORKS.index(first) :], change
        # What the search takes for one stage is one stage.
        other = [
            name
            for name in NETWORKS
            if flatten_chain(up_to(chain, name)) != flatten_chain(up_to(make_chain(), name))
        ]
        assert tuple(other) == changed
    reseeded = replace(tiny_config, seed=1)
    assert dense_of(reseeded).key != base["dense"]


def test_a_setting_that_the_distiller_does_not_use_is_no_part_of_its_key(tiny_config):
    with pytest.raises(ValueError, match="unused setting beta"):
        make_chain(distiller="kd", beta=2.0)
    chain = make_chain(distiller="kd", alpha=0.5)
    assert set(flatten_chain(chain)) == {
        "dense.student", "sparse.sparsity_lambda", "pruned.pruning_ratio", "pruned.scope",
        "pruned.round_to", "pruned.importance", "distilled.distiller", "distilled.lr",
        "distilled.kd.temperature", "distilled.kd.alpha",
    }  # fmt: skip
    content = stages_of(tiny_config, chain)["distilled"].content()
    assert "kd.alpha" in content
    assert not any("beta" in name or "dkd" in name for name in content)


def test_a_pipeline_may_prune_a_finished_network_further(tiny_config, context, store):
    first = make_chain(pruning_ratio=0.3)
    tail = make_chain(("pruned", "latency", "distilled"), pruning_ratio=0.6)
    run_pipeline(tiny_config, first, store, context)
    further = run_pipeline(tiny_config, (*first, *tail), store, context)
    at_once = run_pipeline(tiny_config, make_chain(pruning_ratio=0.6), store, context)
    assert further.seconds["dense"] == 0
    assert further.stages["pruned"] != at_once.stages["pruned"]
    # The ratio is of the original channels, so that both are equally wide up to rounding.
    assert further.metrics["num_params"] == pytest.approx(at_once.metrics["num_params"], rel=0.1)
    less = make_chain(("pruned", "latency", "distilled"), pruning_ratio=0.3)
    with pytest.raises(ValueError, match=r"pruning_ratio must be above 0\.3"):
        build_stages(tiny_config, (*first, *less))


@pytest.mark.parametrize(("who", "teachers"), [("same", [0, 0]), ("previous", [1, 4])])
def test_the_network_before_a_pruning_may_teach_the_one_after_it(who, teachers, tiny_config):
    config = replace(tiny_config, self_teaching=True, previous_teaches=who == "previous")
    further = make_chain(("pruned", "latency", "distilled"), pruning_ratio=0.6)
    stages = build_stages(config, (*make_chain(pruning_ratio=0.3), *further))
    taught = [stage for stage in stages if stage.name == "distilled"]
    assert [stages.index(stage.parents["teacher"]) for stage in taught] == teachers
    with pytest.raises(ValueError, match="needs self_teaching"):
        replace(config, self_teaching=False, previous_teaches=True)


def test_the_path_of_the_data_and_the_teachers_name_do_not_count(tiny_config, tmp_path):
    moved = replace(tiny_config, data=replace(tiny_config.data, root=tmp_path))
    assert dense_of(moved).key == dense_of(tiny_config).key
    assert teacher_of(tiny_config).key != dense_of(tiny_config).key


@pytest.mark.parametrize("name", ["none", "kd", "dkd+cwd_features"])
def test_distillers_of_each_kind_train_a_student(tiny_config, context, store, name):
    settings = make_chain(distiller=name)
    result = run_pipeline(tiny_config, settings, store, context)
    assert 0 <= result.metrics["miou"] <= 1
    assert (store.find("teacher", teacher_of(tiny_config).key) is None) == (name == "none")


def test_frame_pairs_teach_and_consistency_is_measured(tiny_config, context, store):
    config = replace(tiny_config, data=replace(tiny_config.data, name="synthetic_drives"))
    chain = make_chain((*config.chain, "consistency"), distiller="multi_level", low_weight=2.0)
    result = run_pipeline(config, chain, store, context)
    assert 0 <= result.metrics["consistency"] <= 1
    assert 0 <= result.metrics["miou"] <= 1
    with pytest.raises(ValueError, match="no consecutive frames"):
        run_pipeline(tiny_config, make_chain(distiller="consistency"), store, context)
    still = make_chain((*config.chain, "consistency"), distiller="none")
    with pytest.raises(ValueError, match=r"consistency needs consecutive frames in synthetic"):
        run_pipeline(tiny_config, still, store, context)


def test_motion_is_estimated_between_the_frames_that_can_be_read(tmp_path, monkeypatch):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        for number in range(4):
            image = Image.new("L", (16, 16), number if folder == "images" else number % 2)
            image.save(tmp_path / folder / f"drive_{number}.png")
    (tmp_path / "images" / "drive_0.png").write_bytes(b"cut off")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    (tmp_path / "val.txt").write_text("\n".join(f"drive_{number}" for number in range(4)))
    data = DataConfig(name="folder", root=tmp_path)
    frames = data.open_cached("val", tmp_path / "cache")
    monkeypatch.setattr(optical_flow, "_import_opencv", lambda: None)
    monkeypatch.setattr(optical_flow, "estimate_motion", lambda *images: images)
    first, second = consistency._find_motion(data, frames)(0, 1)
    assert (first.max(), second.max()) == (1, 2)


def test_a_distiller_on_features_asks_the_teacher_at_every_step(tiny_config):
    def teach(name, source):
        logits = replace(tiny_config.teacher_logits, source=source)
        config = replace(tiny_config, teacher_logits=logits)
        return stages_of(config, make_chain(distiller=name))["distilled"].key

    assert teach("cwd", "cached") == teach("cwd", "live")
    assert teach("cwd_logits", "cached") != teach("cwd_logits", "live")


def test_l1_moves_scales_towards_zero_by_lambda(tiny_config):
    model = tiny_config.student.build(19)
    scales = batchnorm_scales(model)
    with torch.no_grad():
        scales[0].copy_(torch.linspace(-1, 1, len(scales[0])))
    for scale in scales:
        scale.grad = torch.zeros_like(scale)
    add_l1_subgradient(model, 0.01)
    torch.testing.assert_close(scales[0].grad, 0.01 * scales[0].detach().sign())


def test_stronger_l1_makes_smaller_scales(tiny_config, context, store):
    medians = []
    for sparsity_lambda in (0.0, 1.0):
        settings = make_chain(sparsity_lambda=sparsity_lambda)
        stage = stages_of(tiny_config, settings)["sparse"]
        medians.append(stage.obtain(store, context).result["median_bn_scale"])
    assert medians[1] < medians[0]


def test_sparse_without_batchnorm_warns_and_prunes(tiny_config, context, store, tmp_path):
    (tmp_path / "plain.py").write_text(
        "from torch import nn\n"
        "def make(num_classes):\n"
        "    first, last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, num_classes, 1)\n"
        "    return nn.Sequential(first, nn.ReLU(), last)\n"
    )
    config = replace(tiny_config, student=NetworkConfig(name=f"{tmp_path / 'plain.py'}:make"))
    stages = stages_of(config, make_chain())
    result = stages["sparse"].obtain(store, context).result
    assert result["median_bn_scale"] is None
    assert "sparsity_lambda has no effect" in result["warnings"][0]
    pruned = stages["pruned"].obtain(store, context).result
    assert pruned["num_params"] < pruned["num_params_unpruned"]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_class_weights_by_hand(tiny_config, context, power):
    training = replace(tiny_config.dense, class_weighting="enet", class_weight_power=power)
    learning = Learning(data=tiny_config.data, training=training, seed=0)
    images = tiny_config.data.open("train")
    targets = torch.stack([images[i].target for i in range(len(images))])
    share = (targets == 0).sum().item() / (targets != 255).sum().item()
    expected = (1 / math.log(1.02 + share)) ** power
    assert learning.class_weights(context)[0].item() == pytest.approx(expected)
    plain = Learning(data=tiny_config.data, training=tiny_config.dense, seed=0)
    assert plain.class_weights(context) is None


def test_a_damaged_training_state_starts_the_stage_anew(tiny_config, context, store, caplog):
    stage = dense_of(tiny_config)
    partial = store.root / f"dense-{stage.key}.partial"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(b"cut off")
    assert not stage.obtain(store, context).reused
    assert "starts anew" in caplog.text


def test_a_damaged_teacher_is_trained_again(tiny_config, context, store, caplog):
    first = run_baseline("teacher", tiny_config, store, context)
    checkpoint = store.root / first.stage / "checkpoint.safetensors"
    content, tensors = checkpoint.read_bytes(), load_checkpoint(checkpoint).state_dict()
    checkpoint.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    again = run_baseline("teacher", tiny_config, store, context)
    assert "is damaged" in caplog.text
    assert (again.stage, again.miou) == (first.stage, first.miou)
    repaired = load_checkpoint(checkpoint).state_dict()
    assert all(torch.equal(repaired[key], tensors[key]) for key in tensors)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distiller": "fitnets"}, "distiller must be one of dkd, kd, none.*; got 'fitnets'"),
        ({"temperature": -1.0}, "got -1.0"),
        ({"beta": -2.0}, "beta must be at least 0, got -2.0"),
        ({"distiller": "kd", "alpha": 2.0}, "alpha must be in 0..1"),
    ],
)
def test_bad_distillers_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        make_chain(**change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pruning_ratio": 1.0}, "pruning_ratio must lie within 0..1, both excluded; got 1.0"),
        ({"sparsity_lambda": -1e-4}, "sparsity_lambda must be at least 0"),
        ({"round_to": 0}, "round_to must be at least 1, got 0"),
        ({"lr": float("inf")}, "lr must be greater than 0, got inf"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        make_chain(**change)


def test_the_data_are_checked_whole(tiny_config, tmp_path):
    summary = check_data(tiny_config, tmp_path)
    assert summary.num_classes == len(summary.classes) == 19
    assert summary.resolution == (64, 96)


def test_what_is_not_trained_here_has_the_augmentation_in_its_key_where_it_counts(tiny_config):
    def describe(settings, scale_range, *, is_trained):
        augmentation = replace(tiny_config.data.augmentation, scale_range=scale_range)
        config = replace(tiny_config, data=replace(tiny_config.data, augmentation=augmentation))
        network = dense_of(config)
        if not is_trained:
            network = GivenStage(config.student, config.data)
        pruned = PrunedStage(network, settings, config.data)
        file = DeployedFile(
            network, replace(config, latency=LatencyConfig()), "cpu", method="qat", reference=None
        )
        return pruned.content(), file.content()

    for importance, is_trained in itertools.product(("taylor", "bn_scale"), (False, True)):
        settings = PrunedSettings(importance=importance)
        pruned, file = describe(settings, (0.5, 2.0), is_trained=is_trained)
        other_pruned, other_file = describe(settings, (1.0, 1.0), is_trained=is_trained)
        assert (pruned == other_pruned) == (is_trained or importance == "bn_scale")
        assert (file == other_file) == is_trained


FLAGS = [
    "--pipeline.data.size", "64", "96", "--pipeline.data.num-samples", "8",
    "--pipeline.data.augmentation.crop-size", "64", "64",
    "--pipeline.student.backbone", "tu-resnet18", "--pipeline.student.width", "0.125",
    "--pipeline.dense.num-steps", "2", "--pipeline.dense.batch-size", "2", "--device", "cpu",
]  # fmt: skip


def test_the_command_runs_one_stage_without_ray(tmp_path, capsys):
    folders = ["--store", str(tmp_path / "s"), "--cache-dir", str(tmp_path / "c")]
    assert main(["dense", *FLAGS, *folders]) == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["reused"] is False
    assert "look at: " in err  # eight samples do not have all 19 classes
    assert "never occur" in err
    assert 0 <= result["miou"] <= 1
    assert main(["dense", *FLAGS, *folders]) == 0
    assert json.loads(capsys.readouterr().out)["reused"] is True


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pipeline.data.name", "camvid", "--data-root", "/nowhere"], "/nowhere"),
        (["--from-run", "/nowhere"], "config.json"),
        (["--from-run=/nowhere"], "config.json"),
        (["--from_run", "/nowhere"], "config.json"),
        (["--from_run=/nowhere"], "config.json"),
        (["--pipeline.student.backbone-weights", "no.safetensors"], "no.safetensors"),
        (["--settings", "lr=[red]"], "got '[red]'"),
    ],
)
def test_the_command_names_bad_input(tmp_path, capsys, flags, message):
    assert main(["dense", *FLAGS, "--store", str(tmp_path / "s"), *flags]) == 2
    assert message in capsys.readouterr().err.replace("\n", "")


def test_settings_of_a_stage_outside_the_chain_are_refused(capsys):
    assert main(["teacher", *FLAGS, "--settings", "lr=1e-3"]) == 2
    assert "stage teacher has no --settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (PruningError("layer [a] cannot be pruned"), 1),
        (EngineError("the engine [a] is missing"), 1),
        (CheckpointError("[a] is no checkpoint"), 1),
        (OSError("[a] is full"), 1),
        (ValueError("[a] is unknown"), 2),
        (KeyboardInterrupt(), 130),
    ],
)
def test_an_error_ends_the_command_with_one_line(monkeypatch, capsys, error, status):
    def fail(*arguments):
        raise error

    monkeypatch.setattr("trainables.run.run", fail)
    assert main(["dense", *FLAGS]) == status
    assert (str(error) or "interrupted") in capsys.readouterr().err


def test_advice_on_given_weights_names_the_flags_of_their_network(tiny_config, context, tmp_path):
    model = tiny_config.student.build(19)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    save_checkpoint(tmp_path / "net.safetensors", model)
    given = replace(tiny_config.student, weights=str(tmp_path / "net.safetensors"))
    config = replace(tiny_config, teacher=given, student=given, students={"mine": given})
    roots = [
        build_baselines(config)["teacher"],
        make_chain(("dense",)),
        build_chain(("dense",), {"dense.student": "mine"}),
    ]
    found = [
        build_stages(config, root[:1])[0].compute(tmp_path, {}, context)["warnings"][0]
        for root in roots
    ]
    for place, text in zip(("teacher", "student", "students.mine"), found, strict=True):
        assert re.findall(r"--pipeline\.(.+?)\.(?:normalization|outputs)", text) == [place] * 2


@pytest.mark.parametrize(
    ("given", "changes"),
    [
        ({"pruning_ratio": "0.6"}, {"pruned.pruning_ratio": 0.6}),
        ({"pruned.pruning_ratio": "0.6"}, {"pruned.pruning_ratio": 0.6}),
        ({"beta": "4"}, {"distilled.dkd.beta": 4.0}),
        ({"distiller": "cwd"}, {"distilled.distiller": "cwd"}),
    ],
)
def test_given_settings_replace_those_of_a_run(given, changes):
    defaults = make_settings(pruning_ratio=0.3, distiller="dkd", beta=2.0, lr=1e-3)
    chosen = flatten_chain(
        build_chain(DEFAULT_STAGES, override_settings(DEFAULT_STAGES, defaults, given))
    )
    assert {name: chosen[name] for name in changes} == changes
    kept = {name: v for name, v in defaults.items() if name not in changes and ".dkd." not in name}
    assert {name: chosen[name] for name in kept} == kept
