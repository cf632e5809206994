import importlib
import json

import pytest

from models import create_model
from models.checkpoint import save_checkpoint
from trainables.distillers import DISTILLERS, check_combination


@pytest.fixture
def bench():
    return importlib.import_module("distillers")


def test_every_method_can_be_built(bench):
    for method in bench.METHODS.values():
        check_combination(tuple(method.settings))
        for part, given in method.settings.items():
            DISTILLERS[part].Settings(**given)
            assert method.on_pairs or not DISTILLERS[part].needs_pairs
    tried = {part for method in bench.METHODS.values() for part in method.settings}
    assert tried == set(DISTILLERS)


@pytest.mark.slow
def test_the_same_student_is_fine_tuned_by_each_and_finished_work_stays(bench, tmp_path, capsys):
    teacher = tmp_path / "teacher.safetensors"
    save_checkpoint(teacher, create_model("fast_scnn", 19))
    argv = ["--work-dir", str(tmp_path / "w"), "--data.name", "synthetic_drives"]
    argv += ["--data.size", "64", "96", "--data.augmentation.crop-size", "64", "96"]
    argv += ["--data.num-samples", "4", "--dense-steps", "1", "--batch-size", "2"]
    argv += ["--teacher.weights", str(teacher), "--teacher.name", "fast_scnn"]
    argv += ["--num-threads", "1", "--seeds", "0", "--steps", "1"]
    methods = ["none", "cwd_features", "high_level"]
    assert bench.main([*argv, "--methods", *methods[:1]]) == 0
    assert bench.main([*argv, "--methods", *methods, "--num-processes", "2"]) == 0
    lines = (tmp_path / "w" / "results.jsonl").read_text().splitlines()
    runs = [(run["method"], run["seed"]) for run in map(json.loads, lines)]
    assert len(runs) == len(set(runs)) == 3
    printed = capsys.readouterr().out
    assert all(method in printed for method in methods)
    assert not list((tmp_path / "w").glob("none*"))
    assert bench.main([*argv, "--methods", *methods, "--lr", "5e-4"]) == 2
    assert "was made with lr 0.002" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        bench.main([*argv, "--methods", "fitnets"])


def test_intervals_by_hand(bench):
    # t of 0.975 with one degree of freedom is 12.706; the standard error of (1, 3) is 1.
    assert bench.describe_interval([1.0, 3.0]) == "2.00 ± 12.71"
    assert bench.describe_interval([0.5, 0.5, 0.5], signed=True) == "+0.50 ± 0.00"
    assert bench.describe_interval([1.0]) == "1.00 ± ?"
