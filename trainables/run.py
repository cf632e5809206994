"""Run a pipeline, or its first stages, in this process and without Ray.

Examples:
  python -m trainables.run distilled --from-run runs/camvid-20260101-120000 --settings beta=4
  python -m trainables.run pruned --from-run runs/camvid-20260101-120000 --store runs/mine
  python -m trainables.run dense --pipeline.data.name camvid --data-root CamVid
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro
from pydantic import TypeAdapter
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from models.checkpoint import CheckpointError
from models.engines import EngineError
from models.engines.onnx_graph import ExportError
from models.pruning import PruningError
from models.quantization.quantizer import QuantizationError
from trainables.artifacts.store import ArtifactStore
from trainables.chain import build_chain, override_settings
from trainables.context import Progress, StageContext, detect_device
from trainables.pipeline import build_baselines, build_stages, check_data
from trainables.pipeline_config import PipelineConfig
from trainables.process.device_lock import DeviceLock
from trainables.process.machine_errors import OutOfMemory, SurroundingsError
from trainables.process.memory import keep_freed_memory
from trainables.stages import Stage
from trainables.stages.deployed_file import ParityError
from trainables.stages.stage_errors import blaming

PROGRAM = "python -m trainables.run"
EXIT_INTERRUPTED = 128 + signal.SIGINT  # as in a shell
ERRORS = (
    ArithmeticError, OSError, OutOfMemory, SurroundingsError, CheckpointError, EngineError,
    ExportError, ParityError, PruningError, QuantizationError,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Run a pipeline up to a stage.

    Attributes:
        stage: Last stage to run: a stage of the pipeline's chain, or teacher. The stages before it
            are run or reused.
        pipeline: Configuration that all pipelines of a study share.
        settings: Settings of this pipeline as NAME=VALUE: pruning_ratio=0.6 lr=1e-3. Missing
            settings get the papers' values. Stages outside the pipeline's chain, such as teacher,
            have none.
        store: Folder of the artefacts; finished stages in it are reused.
        cache_dir: Folder of the decoded images.
        device: Torch device: cpu, cuda or cuda:N.
        num_threads: Number of CPU threads; default: all cores.
        num_workers: Number of processes that load data.
        from_run: Take pipeline, store and first point from a run of search/run.py; other flags
            override them.
        defaults: Settings of that first point.
    """

    stage: tyro.conf.Positional[str]
    pipeline: PipelineConfig = field(default_factory=PipelineConfig)
    settings: tuple[str, ...] = ()
    store: Path = Path("runs/stages")
    cache_dir: Path = Path.home() / ".cache" / "segfront"
    device: str = field(default_factory=detect_device)
    num_threads: int | None = None
    num_workers: int = 0
    from_run: Path | None = None
    defaults: Annotated[Mapping[str, Any], tyro.conf.Suppress] = field(default_factory=dict)


def run(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Run the stages up to the requested one.

    Returns:
        The result of the last stage, with its folder.

    Raises:
        ValueError: The data or a setting cannot be used.
        OutOfMemory: A stage ran out of memory.
        SurroundingsError: Disk, storage or data failed during the run.
    """
    config = arguments.pipeline
    stage = _build_stage(config, arguments)
    for text in check_data(config, arguments.cache_dir).warnings:
        console.print(f"[yellow]look at:[/] {escape(text)}", highlight=False, soft_wrap=True)
    context = StageContext(
        cache_dir=arguments.cache_dir,
        device=arguments.device,
        num_threads=arguments.num_threads,
        num_workers=arguments.num_workers,
        report=lambda progress: _print(progress, console),
        device_lock=DeviceLock(arguments.device),
    )
    with blaming(arguments.stage, arguments.device):
        artifact = stage.obtain(ArtifactStore(arguments.store), context)
    return {**artifact.result, "folder": str(artifact.folder), "reused": artifact.reused}


def _build_stage(config: PipelineConfig, arguments: Arguments) -> Stage:
    baselines = build_baselines(config)
    parts = [chain[:n] for chain in baselines.values() for n in range(1, len(chain) + 1)]
    known = dict.fromkeys((*config.chain, *(part[-1].stage for part in parts)))
    if arguments.stage not in known:
        raise ValueError(f"stage must be one of {', '.join(known)}; got {arguments.stage!r}")
    if arguments.stage not in config.chain:
        if arguments.settings:
            raise ValueError(f"stage {arguments.stage} has no --settings; got {arguments.settings}")
        chain = next(part for part in parts if part[-1].stage == arguments.stage)
    else:
        given = parse_settings(arguments.settings)
        chosen = override_settings(config.chain, arguments.defaults, given)
        chain = build_chain(config.chain, chosen)
        chain = chain[: config.chain.index(arguments.stage) + 1]
    return build_stages(config, chain)[-1]


def parse_settings(words: Sequence[str]) -> dict[str, str]:
    """Read settings of the form NAME=VALUE.

    Raises:
        ValueError: A word has another form.
    """
    for word in words:
        if not re.fullmatch(r"[\w.-]+=.+", word):
            raise ValueError(f"settings must have the form NAME=VALUE, got {word!r}")
    pairs = (word.split("=", 1) for word in words)
    return {name.replace("-", "_"): value for name, value in pairs}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and print the result as JSON.

    Returns:
        Exit status: 0, 1 if a stage failed, 2 for bad input, 130 after Ctrl-C.
    """
    logging.basicConfig(level="INFO", format="%(message)s", handlers=[RichHandler(show_path=False)])
    keep_freed_memory()
    console = Console(stderr=True)
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        defaults = _defaults_from_run(argv)
        arguments = (
            tyro.cli(Arguments, args=argv, prog=PROGRAM, description=__doc__)
            if defaults is None
            else tyro.cli(Arguments, args=argv, prog=PROGRAM, description=__doc__, default=defaults)
        )
        result = run(arguments, console)
    except ERRORS as error:
        _print_error("failed", error, console)
        return 1
    except ValueError as error:
        _print_error("error", error, console)
        return 2
    except KeyboardInterrupt:
        console.print("interrupted; the same command continues from the last saved state")
        return EXIT_INTERRUPTED
    result.pop("losses", None)
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


def _print_error(kind: str, error: Exception, console: Console) -> None:
    text = escape(str(error))
    console.print(f"[bold red]{kind}:[/] {text}", highlight=False, soft_wrap=True)


def _defaults_from_run(argv: Sequence[str]) -> Arguments | None:
    """Read the pipeline of an earlier run before the other flags override it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--from-run", "--from_run", type=Path)
    try:
        folder = parser.parse_known_args(argv)[0].from_run
    except argparse.ArgumentError:
        return None  # tyro will report what is wrong
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text())
        pipeline, points = config["pipeline"], config["first_points"]
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"--from-run needs a run folder with a config.json: {error}") from error
    return Arguments(
        stage="distilled",
        pipeline=TypeAdapter(PipelineConfig).validate_python(pipeline),
        defaults=points[0] if points else {},
        store=folder / "stages",
        from_run=folder,
    )


def _print(progress: Progress, console: Console) -> None:
    loss = "" if progress.loss is None else f"  loss {progress.loss:.3f}"
    miou = "" if progress.miou is None else f"  mIoU {progress.miou:.4f}"
    console.print(f"{progress.stage:>9} {progress.step}/{progress.num_steps}{loss}{miou}")


if __name__ == "__main__":
    sys.exit(main())
