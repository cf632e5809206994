"""What bad input prints: the values allowed, exit status 2, before any training."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from search.command_line import parse_arguments
from search.config import StudyConfig, load_config, save_config
from search.pipelines.study import PipelineStudy
from search.recipes import RECIPES, quickstart
from search.run import limit_from_now, main
from search.run_files.run_folder import LOCK_FILE, create_run_folder, locked
from trainables.ranges import FloatRange

ROOT = Path(__file__).parents[2]
HOLDER = """
import fcntl, sys
file = open(sys.argv[1], "a")
fcntl.flock(file, fcntl.LOCK_EX)
print("held", flush=True)
input()
"""


def run(*arguments: str) -> int:
    try:
        return main(list(arguments))
    except SystemExit as exit_:  # tyro's own
        return int(str(exit_.code))


def test_no_recipe_is_the_quickstart() -> None:
    assert parse_arguments([]).study == quickstart()
    assert parse_arguments(["--num-pipelines", "4"]).study.num_pipelines == 4


def test_flags_follow_the_types(tmp_path: Path) -> None:
    study = parse_arguments(
        ["camvid", "--data-root", str(tmp_path), "--pipeline.distil.num-steps", "5",
         "--objectives", "miou", "macs", "--space.sparsity-lambda", "1e-4", "1e-2",
         "--sampler", "nsga2", "--gpus-per-trial", "0.5"]
    ).study  # fmt: skip
    assert study.pipeline.data.root == tmp_path
    assert study.pipeline.distil.num_steps == 5
    assert study.objectives == ("miou", "macs")
    assert study.space.sparse.sparsity_lambda == (1e-4, 1e-2)
    assert (study.sampler, study.gpus_per_trial) == ("nsga2", 0.5)


def find_documented_commands() -> Iterator[str]:
    """The searches that README.md and docs/ tell the reader to start, without placeholders."""
    for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))):
        text = path.read_text(encoding="utf-8").replace("\\\n", " ")
        commands = re.findall(r"python search/run\.py ([a-z][^\n`'&]*)", text)
        yield from (command for command in commands if "..." not in command)


@pytest.mark.parametrize("command", find_documented_commands())
def test_documented_commands_are_accepted_and_name_their_data(command: str) -> None:
    data = parse_arguments(shlex.split(command)).study.pipeline.data
    assert data.root or data.name.startswith("synthetic") or "--download" in command


def unwrap(text: str) -> str:
    """What tyro prints, without its frames and line breaks."""
    return " ".join(text.replace("│", " ").split())


def test_lambda_is_a_list_of_choices_or_a_range(capsys: pytest.CaptureFixture[str]) -> None:
    flag = "--space.sparsity-lambda"
    assert parse_arguments([flag, "1e-4"]).study.space.sparse.sparsity_lambda == (1e-4,)
    given = parse_arguments([flag, "1e-5..1e-2"]).study.space.sparse.sparsity_lambda
    assert given == FloatRange(low=1e-5, high=1e-2, log=True)
    for wrong, message in (("many", "many"), ("0..1", "low > 0")):
        assert run(flag, wrong) == 2
        assert message in unwrap("".join(capsys.readouterr()))


def test_the_name_of_a_setting_is_enough() -> None:
    flags = ["--space.pruning-ratio.low=0.3", "--space.distiller", "dkd", "kd"]
    space = parse_arguments([*flags, "--space.temperature.high", "5"]).study.space
    assert space.pruned.pruning_ratio.low == 0.3
    assert space.distilled.distiller == ("dkd", "kd")
    # Every distiller of the space that has the setting gets it.
    assert space.distilled.dkd.temperature.high == space.distilled.kd.temperature.high == 5
    flags = ["cityscapes", "--data-root", ".", "--space.temperature.high", "5"]
    alone = parse_arguments(flags).study.space.distilled
    assert (alone.dkd.temperature.high, alone.kd.temperature.high) == (5, 8)
    # The same command may add the stage that has the setting.
    flags = ["--pipeline.chain", "dense", "sparse", "pruned", "latency", "distilled", "quantised"]
    flags += ["--space.precision", "float32", "int8", "--space.method", "ptq", "qat"]
    quantised = parse_arguments(flags).study.space.quantised
    assert quantised.precision == ("float32", "int8")
    assert quantised.int8.method == ("ptq", "qat")
    full = parse_arguments(["--space.distilled.kd.alpha.high", "0.5"]).study.space
    assert (full.distilled.kd.alpha.high, full.distilled.dkd.alpha.high) == (0.5, 2)


def test_help_names_recipes_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    output = capsys.readouterr().out
    for word in (*RECIPES, "examples:", "--data-root", "--pipeline.distil.num-steps", "--resume"):
        assert word in output
    assert run("--resume", "x", "--help") == 0
    assert "--confirm" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["camvit"],
            f"recipe must be one of {', '.join(RECIPES)}; got 'camvit'",
        ),
        (["--num-pipeline", "4"], "--num-pipelines"),
        (["--num-pipelines", "four"], "INT"),
        (["--num-pipelines", "0"], "num_pipelines must be at least 1, got 0"),
        (["--sampler", "cmaes"], "tpe"),
        (["--objectives", "miou"], "objectives must be at least two different ones of num_params"),
        (["streets", "--space.lr.low", "5"], "low <= high, got 5.0..0.004"),
        (["streets", "--pipeline.student.name", "unet"], "model must be one of asymmetric_pyramid"),
        (["streets", "--pipeline.student.backbone", "resnet1"], "backbone"),
        (["streets", "--pipeline.teacher.backbone-weights", "no.safetensors"], "no.safetensors"),
        (["camvid", "--data-root", "nowhere"], "nowhere"),
        (["streets", "--download"], "--download fetches only camvid"),
        (["--warm-start", "nowhere"], "nowhere/config.json cannot be read"),
        (["--warm-start", "a", "a"], "warm_start must not name a run twice"),
        (["--resume", "nowhere"], "nowhere/config.json cannot be read"),
        (["--resume", "x", "--num-pipelines", "4"], "--num-pipelines"),
        (["--confirm", "1"], "confirm must be 0 or at least 2"),
    ],
)
def test_bad_input_ends_with_2_before_any_run_folder(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert message in unwrap(captured.out + captured.err)
    assert "Traceback" not in captured.out + captured.err
    assert list(tmp_path.glob("runs*")) == []


def test_a_run_folder_has_one_driver(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = create_run_folder(tmp_path, quickstart())
    assert folder.name.startswith("quickstart-20")
    with (
        locked(folder),
        pytest.raises(ValueError, match="in use by another driver"),
        locked(folder),
    ):
        pass
    with locked(folder):
        pass
    with pytest.raises(ValueError, match=r"folder must contain config\.json"), locked(tmp_path):
        pass


def test_a_second_driver_of_a_run_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.run.check_study", lambda *given: SimpleNamespace(warnings=()))
    folder = create_run_folder(tmp_path, quickstart())
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder / LOCK_FILE)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert run("--resume", str(folder)) == 2
        assert f"{folder} is in use by another driver" in capsys.readouterr().err
        holder.kill()
    monkeypatch.setattr("search.run.search", lambda run: 0)
    assert run("--resume", str(folder)) == 0


def test_two_runs_of_one_second_do_not_share_a_folder(tmp_path: Path) -> None:
    assert create_run_folder(tmp_path, quickstart()) != create_run_folder(tmp_path, quickstart())


def test_an_output_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="output_dir must be a writable folder"):
        create_run_folder(tmp_path / "file", quickstart())


def test_resume_reads_only_the_config(tmp_path: Path) -> None:
    save_config(quickstart(), tmp_path / "config.json")
    arguments = parse_arguments([f"--resume={tmp_path}", "--address", "1.2.3.4:6379"])
    assert (arguments.resume, arguments.address) == (str(tmp_path), "1.2.3.4:6379")
    assert arguments.new_confirm is None


def test_resume_takes_confirm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(quickstart(), num_pipelines=5, confirm=2)
    save_config(config, tmp_path / "config.json")
    seen: list[StudyConfig] = []
    monkeypatch.setattr("search.run.search", lambda run: seen.append(run.config) or 0)
    monkeypatch.setattr("search.run.check_study", lambda *given: SimpleNamespace(warnings=()))
    for words, confirm in ((["--confirm", "3"], 3), ([], 3), (["--confirm=0"], 0)):
        assert run("--resume", str(tmp_path), *words) == 0
        assert seen.pop() == replace(config, confirm=confirm)
        assert load_config(tmp_path / "config.json") == replace(config, confirm=confirm)
    assert run("--resume", str(tmp_path), "--confirm", "1") == 2
    assert "confirm must be 0 or at least 2" in capsys.readouterr().err
    assert load_config(tmp_path / "config.json").confirm == 0


def test_a_resumed_study_gets_time_from_now_on(tmp_path: Path) -> None:
    given = parse_arguments(["--resume", "runs/a", "--time-limit", "90m", "--price-per-hour", "2"])
    assert (given.new_time_limit, given.new_price_per_hour) == ("90m", 2.0)
    study = PipelineStudy(replace(quickstart(), time_limit="1h"), tmp_path)
    limit_from_now(study, None)
    assert study.config.time_limit == "1h"
    limit_from_now(study, "90m")
    assert study.config.limit_seconds == pytest.approx(5400, abs=30)
    limit_from_now(study, "none")
    assert study.config.time_limit is None


@pytest.mark.parametrize("words", [["--time-limit", "soon"], ["--price-per-hour", "-1.0"]])
def test_time_and_price_must_make_sense(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises((SystemExit, ValueError)) as caught:
        parse_arguments(words)
    said = f"{caught.value} {capsys.readouterr()}"
    assert words[0][2:].replace("-", "_") in said
    assert words[1] in said
