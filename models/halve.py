"""Write a checkpoint with float16 tensors, half the size: python -m models.halve IN OUT.

The network computes in float32 again once it is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from models.checkpoint import CheckpointError, load_checkpoint, read_metadata, save_checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Halve a checkpoint.

    Attributes:
        source: Checkpoint to read.
        target: File to write.
        factory: Function or class of a network of yours, as in the search: package.module:factory
            or path/to/file.py:factory. Without it, code that only the checkpoint names is not run.
    """

    source: tyro.conf.Positional[Path]
    target: tyro.conf.Positional[Path]
    factory: str | None = None


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        Exit status: 0, or 2 for bad input.
    """
    arguments = tyro.cli(Arguments, args=argv, prog="python -m models.halve", description=__doc__)
    try:
        network = load_checkpoint(arguments.source, arguments.factory)
        metadata = read_metadata(arguments.source)
        save_checkpoint(arguments.target, network, metadata, half=True)
    except (ValueError, OSError, CheckpointError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.target}: {arguments.target.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
