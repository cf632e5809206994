from __future__ import annotations

import importlib
import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    size: int = 1
    output: Path | None = None

    def __post_init__(self):
        if self.size < 1:
            raise ValueError(f"size must be at least 1, got {self.size}")


@pytest.fixture
def command():
    return importlib.import_module("command")


def raising(error):
    def measure(arguments, console):
        raise error

    return measure


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (ZeroDivisionError("a loss of nan"), 1, "failed: a loss of nan"),
        (ValueError("no such folder"), 2, "error: no such folder"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_become_a_line_and_a_status(command, error, status, said):
    printed = io.StringIO()
    console = Console(file=printed)
    measure = raising(error)
    ended = command.run_command(Arguments, measure, [], description="", console=console)
    assert (ended, printed.getvalue()) == (status, said + "\n")


@pytest.mark.parametrize("flags", [["--size", "much"], ["--speed", "1"]])
def test_wrong_flags_end_with_2(command, flags, capsys):
    with pytest.raises(SystemExit) as ended:
        command.run_command(Arguments, raising(AssertionError()), flags, description="")
    assert ended.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_a_value_outside_its_range_ends_with_2(command, capsys):
    flags = ["--size", "0"]
    try:
        status = command.run_command(Arguments, raising(AssertionError()), flags, description="")
    except SystemExit as ended:
        status = ended.code
    assert status == 2
    said = capsys.readouterr()
    assert "size must be at least 1, got 0" in said.out + said.err


def test_results_are_written_and_a_document_may_be_printed(command, tmp_path, capsys):
    def run(measure, *flags):
        return command.run_command(Arguments, measure, flags, description="")

    def measure(arguments, console):
        hardware = {"cpu": "abacus"}
        return {**command.describe_measurement("test", arguments, hardware), "ms": 2.0}

    output = tmp_path / "new" / "result.json"
    assert run(measure, "--output", str(output)) == 0
    written = json.loads(output.read_text())
    assert written.pop("measured_at").endswith("+00:00")
    settings = {"size": 1, "output": str(output)}
    assert written == {
        "benchmark": "test", "hardware": {"cpu": "abacus"}, "settings": settings, "ms": 2.0,
    }  # fmt: skip
    assert run(measure) == 0
    assert capsys.readouterr().out == ""
    assert run(lambda arguments, console: "# Title\n") == 0
    assert capsys.readouterr().out == "# Title\n"
    assert run(lambda arguments, console: "# Title\n", "--output", str(output)) == 0
    assert output.read_text() == "# Title\n"
