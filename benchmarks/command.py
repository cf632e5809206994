"""The common command line of all benchmarks: flags, errors, the file of results."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

import tyro
from rich.console import Console


class Arguments(Protocol):
    """A frozen dataclass from which tyro makes the flags.

    Attributes:
        output: File for the results; None: no file.
    """

    @property
    def output(self) -> Path | None:
        """See above."""


Given = TypeVar("Given", bound=Arguments)


def run_command(
    kind: type[Given],
    measure: Callable[[Given, Console], Mapping[str, Any] | str],
    argv: Sequence[str] | None,
    *,
    description: str | None,
    interrupted: str = "interrupted",
    console: Console | None = None,
) -> int:
    """Parse the flags, measure, and write the results.

    Args:
        kind: Dataclass of the flags.
        measure: Function that measures and prints its findings. It returns JSON-serialisable
            results, or a whole document, which is printed to the standard output if there is no
            output file.
        argv: Command line; None: that of the process.
        description: Description of the benchmark, for --help.
        interrupted: Message after Ctrl-C.
        console: Console of errors and of `measure`; default: the standard output.

    Returns:
        Exit status: 0, 1 if a training failed, 2 for bad input, 130 after Ctrl-C.
    """
    console = console or Console()
    try:
        arguments = tyro.cli(kind, args=argv, description=description)
        result = measure(arguments, console)
    except ArithmeticError as error:
        console.print(f"[bold red]failed:[/] {error}", highlight=False)
        return 1
    except ValueError as error:
        console.print(f"[bold red]error:[/] {error}", highlight=False)
        return 2
    except KeyboardInterrupt:
        console.print(interrupted)
        return 130
    document = result if isinstance(result, str) else json.dumps(result, indent=1) + "\n"
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(document)
    elif isinstance(result, str):
        sys.stdout.write(document)
    return 0


def describe_measurement(
    benchmark: str, arguments: Any, hardware: Mapping[str, Any]
) -> dict[str, Any]:
    """Describe the measurement (what, when, where and how), as JSON-serialisable values.

    Args:
        benchmark: Name of the benchmark.
        arguments: Flags of the benchmark, a dataclass.
        hardware: Hardware, from `models.hardware.describe_hardware`.
    """
    return {
        "benchmark": benchmark,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware,
        "settings": json.loads(json.dumps(asdict(arguments), default=str)),
    }
