import importlib
import json

import pytest

from models import create_model
from models.checkpoint import save_checkpoint


@pytest.fixture
def bench():
    return importlib.import_module("pruning_chains")


@pytest.mark.slow
def test_a_chain_is_walked_once(bench, tmp_path, capsys):
    weights, output = tmp_path / "network.safetensors", tmp_path / "result.json"
    save_checkpoint(weights, create_model("fast_scnn", 19))
    argv = ["--work-dir", str(tmp_path / "w"), "--output", str(output)]
    argv += ["--data.name", "synthetic", "--data.num-samples", "4", "--data.size", "64", "96"]
    argv += ["--data.augmentation.crop-size", "64", "96", "--latency.max-seconds", "0.2"]
    argv += ["--latency.resolution", "64", "96", "--ways", "local bn_scale"]
    argv += ["global taylor kd previous"]
    argv += ["--network.name", "fast_scnn", "--network.weights", str(weights)]
    argv += ["--network.backbone", "None", "--network.decoder-channels", "None"]
    argv += ["--network.backbone-weights", "None"]
    argv += ["--ratios", "0.3", "0.5", "--steps", "1", "--batch-size", "2", "--seeds", "0"]
    argv += ["--class-weight-power", "0.35", "--batchnorm-batches", "1"]
    assert bench.main(argv) == 0
    links = json.loads(output.read_text())["links"]
    assert [(link["way"], link["ratio"]) for link in links] == [
        ("local bn_scale", 0.3), ("local bn_scale", 0.5),
        ("global taylor kd previous", 0.3), ("global taylor kd previous", 0.5),
    ]  # fmt: skip
    assert links[0]["num_params"] > links[1]["num_params"]
    assert all(link["latency"] > 0 for link in links)
    stages = {path: path.stat().st_mtime for path in (tmp_path / "w" / "stages").iterdir()}
    assert bench.main(argv) == 0
    assert {path: path.stat().st_mtime for path in stages} == stages
    assert "global taylor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--ways", "wide taylor"], "input should be 'local', 'global', 'global_macs' or"),
        (["--ways", "local taylor kd"], "or these with a distiller and its teacher"),
        (["--ways", "local fisher"], "importance must be one of"),
        (["--ratios", "0.5", "0.3"], "ratios must ascend"),
        (["--ratios", "0.5", "1.5"], "pruning_ratio must lie within 0..1"),
        (["--class-weight-power", "2"], "class_weight_power must be in 0..1"),
    ],
)
def test_bad_values_are_named(bench, tmp_path, flags, message, capsys):
    with pytest.raises(SystemExit):
        bench.main(["--work-dir", str(tmp_path), *flags])
    assert message in " ".join(capsys.readouterr().err.split())
