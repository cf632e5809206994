"""What every benchmark does around its measurement: flags, errors, the file of results."""

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
    """A frozen dataclass that tyro makes flags of.

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
    """Parse, measure, write.

    Args:
        kind: The flags.
        measure: Does the work and prints what it finds. Returns the results, JSON-able, or a whole
            document, which goes to the standard output where there is no file for it.
        argv: Command line; None: that of the process.
        description: Of the benchmark, for --help.
        interrupted: What to say after Ctrl-C.
        console: Where errors and `measure` print; default: the standard output.

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
    """What was measured, when, on what and how: the head of the results, JSON-able.

    Args:
        benchmark: Its name.
        arguments: Its flags, a dataclass.
        hardware: From `models.hardware.describe_hardware`.
    """
    return {
        "benchmark": benchmark,
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "hardware": hardware,
        "settings": json.loads(json.dumps(asdict(arguments), default=str)),
    }
