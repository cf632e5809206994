import importlib
import json
import math

import pytest


@pytest.fixture
def distillation():
    return importlib.import_module("distillation")


def test_differences_are_paired_by_seed(distillation):
    pair = distillation.compare(
        {0: 0.52, 1: 0.65, 2: 0.45}, {2: 0.42, 1: 0.64, 0: 0.50}, ("a", "b")
    )
    # Differences 0.02, 0.01, 0.03: mean 0.02, deviation 0.01; t(0.975, 2) = 4.302653.
    assert pair.differences == pytest.approx((0.02, 0.01, 0.03))
    assert pair.mean == pytest.approx(0.02)
    assert pair.standard_error == pytest.approx(0.01 / math.sqrt(3))
    margin = 4.302653 * 0.01 / math.sqrt(3)
    assert pair.interval == pytest.approx((0.02 - margin, 0.02 + margin))
    assert "cannot be told" in pair.verdict


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((0.020, 0.021, 0.019), "helped"),
        ((-0.020, -0.021, -0.019), "harm"),
        ((0.1,), "cannot be told"),
    ],
)
def test_verdict_follows_the_interval(distillation, gains, expected):
    reference = dict.fromkeys(range(len(gains)), 0.5)
    miou = {seed: 0.5 + gain for seed, gain in enumerate(gains)}
    assert expected in distillation.compare(miou, reference, ("a", "b")).verdict


def test_a_finished_benchmark_is_not_computed_twice(distillation, run_dir):
    command = ["--run-dir", str(run_dir), "--jobs", "1", "--seeds", "0", "1", "--device", "cpu"]
    output = run_dir / "new" / "result.json"
    assert distillation.main([*command, "--output", str(output)]) == 0
    first = json.loads(output.read_text())
    stages = {path.name: path.stat().st_mtime_ns for path in (run_dir / "stages").iterdir()}
    assert len([name for name in stages if name.startswith("distilled-")]) == 4
    assert len([name for name in stages if name.startswith("pruned-")]) == 1
    assert distillation.main([*command, "--output", str(output)]) == 0
    assert json.loads(output.read_text())["miou"] == first["miou"]
    assert set(stages) == {path.name for path in (run_dir / "stages").iterdir()}


def test_a_folder_without_a_run_is_named(distillation, tmp_path, capsys):
    assert distillation.main(["--run-dir", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().out
