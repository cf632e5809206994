"""The command line of search/run.py, derived from the types of the configuration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from search.config import StudyConfig
from search.network_flags import put_networks
from search.recipes import RECIPES, describe_recipe
from search.short_flags import lengthen_flags

DEFAULT_RECIPE = "quickstart"
PROGRAM = "python search/run.py"

DESCRIPTION = """Search for the Pareto front of compressed segmentation networks.

Trains a teacher and a dense student, then tries pipelines of sparse training (lambda),
pruning (ratio, scope) and distillation (T, alpha, beta, eta, lr). Equal stages are computed once.
The answer is a run folder: report/index.html with the front, a checkpoint for every network,
trials.csv, and study.journal for optuna-dashboard.

recipes (first argument; quickstart if left out):
{recipes}

main flags: --data-root DIR, --num-pipelines N, --sampler NAME, --objectives A B,
  --pipeline.dense.num-steps N, --space.pruning-ratio.high P, --gpus-per-trial F, --output-dir DIR;
  all with the defaults of {recipe} below.

examples:
  python search/run.py
  python search/run.py camvid --data-root CamVid
  python search/run.py camvid --download --num-pipelines 30 --sampler nsga2
  python search/run.py cityscapes --data-root cityscapes --gpus-per-trial 0.5
  python search/run.py camvid --data-root CamVid --warm-start runs/camvid-20260101-120000
  python search/run.py camvid --data-root CamVid --store runs/store --seed 1
  python search/run.py quickstart --pipeline.data.name folder --data-root my_images
  python search/run.py --resume runs/camvid-20260101-120000
  python search/run.py --resume runs/camvid-20260101-120000 --confirm 3
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """What a user asks for.

    Attributes:
        study: The study.
        output_dir: The run's folder <recipe>-<date>-<time> is made in it. A path, or storage that
            pyarrow reaches: s3://bucket/prefix, also with ?region=... or ?endpoint_override=...,
            without credentials in it.
        resume: Go on with the run in this folder (path or URI), as it was configured; of the other
            flags only --confirm, --address and --no-dashboard go with it.
        address: Of a running Ray cluster: auto or HOST:PORT from one of its nodes; from elsewhere
            its dashboard's http://HOST:PORT, where the study is handed over with this code and goes
            on by itself. Default: Ray is started on this machine.
        dashboard: Start Ray's dashboard when Ray is started here.
        points: JSON file with pipelines to try first, instead of the recipe's: a list of objects
            such as {"sparsity_lambda": 1e-4, "pruning_ratio": 0.4}; what one leaves out is what the
            space fixes, else what the papers chose.
        download: Fetch CamVid (public GitHub archive, checksum verified) if it is not there yet.
        check: Check data, networks, weights, engine and settings, and train nothing; a picture of
            training samples with their masks is written.
        student: Network to compress: one of ours, smp:Unet, torchvision:deeplabv3_resnet50,
            package.module:factory or path/to/file.py:factory; it takes the place of the recipe's.
        student_weights: Its trained weights: safetensors, a .pth of tensors, or a checkpoint of
            ours. It is then compressed as it is.
        students: Several networks to choose from: their names, or a JSON or TOML file of
            {name: {"name": ..., "weights": ...}}.
        teacher: Network that teaches, likewise; same: the uncompressed student teaches.
        teacher_weights: Its trained weights; it is then not trained.
        new_confirm: What --resume's --confirm says; None: as config.json says.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeArguments:
    """Flags that go with --resume: the study is as config.json in the run's folder says.

    Attributes:
        resume: Folder of the run, a path or a URI.
        confirm: Once its search is over, fine-tune every network of the front so many more times
            with other seeds (2 or more; 0: not at all); config.json keeps it.
        address: Of a running Ray cluster, or of its dashboard, as without --resume.
        dashboard: Start Ray's dashboard.
    """

    resume: str
    confirm: int | None = None
    address: str | None = None
    dashboard: bool = True


def parse_arguments(argv: Sequence[str]) -> Arguments:
    """Read the command line.

    Args:
        argv: Without the program's name.

    Raises:
        ValueError: An unknown recipe, or settings that do not go together.
        SystemExit: After --help (0) or a wrong flag or value (2), once tyro has said what is
            allowed.
    """
    argv = list(argv)
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


def _parse_resume(argv: list[str]) -> Arguments:
    given = tyro.cli(
        ResumeArguments,
        prog=PROGRAM,
        description=(
            "Go on with an interrupted run, or confirm the front of a finished one; its study is "
            "as config.json there says."
        ),
        args=argv,
    )
    return Arguments(
        resume=given.resume,
        address=given.address,
        dashboard=given.dashboard,
        new_confirm=given.confirm,
    )
