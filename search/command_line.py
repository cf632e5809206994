"""The command line of search/run.py, derived from the types of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from search.config import StudyConfig
from search.duration import parse_duration
from search.network_flags import put_networks
from search.recipes import RECIPES, describe_recipe
from search.short_flags import lengthen_flags

DEFAULT_RECIPE = "quickstart"
PROGRAM = "python search/run.py"
NO_LIMIT = "none"

DESCRIPTION = """Search for the Pareto front of compressed segmentation networks.

Trains a teacher and a dense student, then tries pipelines of sparse training (lambda),
pruning (ratio, scope) and distillation (T, alpha, beta, eta, lr). Equal stages are computed once.
The result is a run folder with report/index.html (the front), a checkpoint of every network,
trials.csv, and study.journal for optuna-dashboard.

recipes (first argument; quickstart if left out):
{recipes}

main flags: --data-root DIR, --num-pipelines N, --sampler NAME, --objectives A B,
  --pipeline.dense.num-steps N, --space.pruning-ratio.high P, --gpus-per-trial F, --output-dir DIR,
  --time-limit 8h, --price-per-hour X;
  all flags are below, with the defaults of {recipe}.

examples:
  python search/run.py
  python search/run.py camvid --data-root CamVid
  python search/run.py camvid --download --num-pipelines 30 --sampler nsga2
  python search/run.py cityscapes --data-root cityscapes --gpus-per-trial 0.5
  python search/run.py camvid --data-root CamVid --warm-start runs/camvid-20260101-120000
  python search/run.py camvid --data-root CamVid --store runs/store --seed 1
  python search/run.py camvid --pipeline.data.name folder --data-root my_images
  python search/run.py --resume runs/camvid-20260101-120000
  python search/run.py --resume runs/camvid-20260101-120000 --confirm 3
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """The parsed command line.

    Attributes:
        study: Configuration of the study.
        output_dir: Folder in which the run's folder <recipe>-<date>-<time> is created. It is a path
            or a URI that pyarrow understands: s3://bucket/prefix, optionally with ?region=... or
            ?endpoint_override=..., without credentials in it.
        resume: Continue the run in this folder (a path or a URI) with its saved configuration. The
            only other flags allowed with it are --confirm, --time-limit, --price-per-hour,
            --address and --no-dashboard.
        address: Address of a running Ray cluster. On one of its nodes: auto or HOST:PORT. From any
            other machine: http://HOST:PORT of its dashboard; the study is then submitted together
            with this code and runs there by itself. Default: start Ray on this machine.
        dashboard: Start Ray's dashboard when Ray is started on this machine.
        points: JSON file of pipelines to try first, in place of the recipe's and of the chain along
            all pruning ratios: a list of objects such as {"sparsity_lambda": 1e-4,
            "pruning_ratio": 0.4}, whose values lie in the space. A setting that an object leaves
            out takes the value that the space fixes, else the papers' value.
        download: Download CamVid (public GitHub archive, checksum verified) if it is missing.
        check: Check data, networks, weights, engine and settings, write a picture of training
            samples with their masks, and train nothing.
        student: Network to compress, in place of the recipe's: one of ours, smp:Unet,
            torchvision:deeplabv3_resnet50, package.module:factory or path/to/file.py:factory.
        student_weights: Trained weights of the student: safetensors, a .pth of tensors, or one of
            our checkpoints. The student is then compressed without training it first.
        students: Several networks to choose from: their names, or a JSON or TOML file that lists
            networks by name: {name: {"name": ..., "weights": ...}}.
        teacher: Network that teaches, named like --student. same: the uncompressed student teaches.
            previous: the network before each pruning teaches the fine-tuning after it.
        teacher_weights: Trained weights of the teacher, which is then not trained.
        new_confirm: Value of --confirm given with --resume. None: keep the value in config.json.
        new_time_limit: Value of --time-limit given with --resume, likewise.
        new_price_per_hour: Value of --price-per-hour given with --resume, likewise.
    """

    study: Annotated[StudyConfig, tyro.conf.arg(name="")] = field(default_factory=StudyConfig)
    output_dir: str = "runs"
    resume: str | None = None
    address: str | None = None
    dashboard: bool = True
    points: Path | None = None
    download: bool = False
    check: bool = False
    student: str | None = None
    student_weights: str | None = None
    students: tuple[str, ...] = ()
    teacher: str | None = None
    teacher_weights: str | None = None
    new_confirm: Annotated[int | None, tyro.conf.Suppress] = None
    new_time_limit: Annotated[str | None, tyro.conf.Suppress] = None
    new_price_per_hour: Annotated[float | None, tyro.conf.Suppress] = None


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeArguments:
    """Flags that can be given with --resume; config.json in the run's folder describes the study.

    Attributes:
        resume: Folder of the run, a path or a URI.
        confirm: Number of times (2 or more; 0: never) that every network of the front is fine-tuned
            again with other seeds once the search is over. The value is saved in config.json.
        time_limit: Time from now on after which the study ends with an answer: 8h, 90m, 1h30m or
            seconds. none: no limit. Default: the rest of the study's own limit.
        price_per_hour: Price of a GPU for an hour, or of a worker on CPUs.
        address: Address of a running Ray cluster or of its dashboard, as without --resume.
        dashboard: Start Ray's dashboard when Ray is started on this machine.
    """

    resume: str
    confirm: int | None = None
    time_limit: str | None = None
    price_per_hour: float | None = None
    address: str | None = None
    dashboard: bool = True

    def __post_init__(self) -> None:
        if self.time_limit not in (None, NO_LIMIT):
            parse_duration(self.time_limit)


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Parse the command line.

    Args:
        argv: Words of the command line, without the program's name.

    Raises:
        ValueError: The recipe is unknown, or settings contradict each other.
        SystemExit: --help was given (0), or a flag or value is wrong (2); tyro has then printed
            what is allowed.
    """
    argv = [_hyphenate(word) for word in argv]
    if any(word == "--resume" or word.startswith("--resume=") for word in argv):
        return _parse_resume(argv)
    recipe = argv.pop(0) if argv and not argv[0].startswith("-") else DEFAULT_RECIPE
    if recipe not in RECIPES:
        raise ValueError(f"recipe must be one of {', '.join(RECIPES)}; got {recipe!r}")
    study = put_networks(argv, RECIPES[recipe]())
    listing = "\n".join(f"  {name:<14} {describe_recipe(name)}" for name in RECIPES)
    return tyro.cli(
        Arguments,
        prog=f"{PROGRAM} [{recipe}]",
        description=DESCRIPTION.format(recipes=listing, recipe=recipe),
        args=lengthen_flags(argv, study),
        default=Arguments(study=study),
    )


def _hyphenate(word: str) -> str:
    """Write a flag such as --student_weights with hyphens, as tyro does before it parses it."""
    if not word.startswith("--"):
        return word
    flag, equals, value = word.partition("=")
    return flag.replace("_", "-") + equals + value


def _parse_resume(argv: list[str]) -> Arguments:
    given = tyro.cli(
        ResumeArguments,
        prog=PROGRAM,
        description=(
            "Continue an interrupted run, or confirm the front of a finished one. The study is "
            "described by config.json in the run's folder."
        ),
        args=argv,
    )
    return Arguments(
        resume=given.resume,
        address=given.address,
        dashboard=given.dashboard,
        new_confirm=given.confirm,
        new_time_limit=given.time_limit,
        new_price_per_hour=given.price_per_hour,
    )
