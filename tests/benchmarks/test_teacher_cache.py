import importlib
import json

import pytest


@pytest.fixture
def teacher_cache():
    return importlib.import_module("teacher_cache")


def test_live_and_cached_teacher_are_compared(teacher_cache, run_dir):
    output = run_dir / "result.json"
    command = [
        "--run-dir", str(run_dir), "--rounds", "2", "--seeds", "0", "1", "--device", "cpu",
        "--output", str(output),
    ]  # fmt: skip
    assert teacher_cache.main(command) == 0
    result = json.loads(output.read_text())
    live, cached = result["steps"]
    assert (live["name"], live["speedup"]) == ("live", 1)
    assert cached["name"] == "cached"
    assert cached["num_rounds"] == 2
    # 4 images of 64 x 64, 19 classes, 2 bytes each.
    assert result["cache"]["num_images"] == 4
    assert result["cache"]["num_bytes"] > 4 * 19 * 16 * 16 * 2
    assert result["cache"]["seconds"] > 0
    assert {name: set(values) for name, values in result["miou"].items()} == {
        "live": {"0", "1"},
        "cached": {"0", "1"},
    }
    assert result["comparison"]["reference"] == "live"
    stages = [path.name for path in (run_dir / "stages").glob("distilled-*")]
    assert len(stages) == 4


def test_maps_of_the_teacher_are_cached_too(teacher_cache, run_dir):
    output = run_dir / "result.json"
    command = [
        "--run-dir", str(run_dir), "--rounds", "1", "--seeds", "--device", "cpu",
        "--distiller", "kd+skd", "--output", str(output),
    ]  # fmt: skip
    assert teacher_cache.main(command) == 0
    result = json.loads(output.read_text())
    assert [row["name"] for row in result["steps"]] == ["live", "cached"]
    assert result["cache"]["num_bytes"] > 4 * 16 * 16 * 2 * (19 + 16)


def test_bad_values_are_named(teacher_cache, tmp_path):
    with pytest.raises(ValueError, match="stride must be at least 1, got 0"):
        teacher_cache.Arguments(run_dir=tmp_path, stride=0)
    with pytest.raises(ValueError, match="seeds must be distinct"):
        teacher_cache.Arguments(run_dir=tmp_path, seeds=(1, 1))


def test_a_folder_without_a_run_is_named(teacher_cache, tmp_path, capsys):
    assert teacher_cache.main(["--run-dir", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().out
