"""Show how a recipe's network learns: its loss and validation mIoU over a short training.

The training uses the recipe's optimiser, batch size, crop size and schedule, but only `--num-steps`
steps instead of thousands. The learning rate reaches its final value within these steps. The result
shows that the recipe learns and how fast, not the final accuracy of a full training. The training
pauses for each evaluation; the pauses do not change its result.

Example (the recipe of paper 3 on CamVid; half an hour on two cores):
  python benchmarks/learning_curve.py camvid_tbfenet --data-root /data/camvid --num-steps 60
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
import tyro
from command import describe_measurement, run_command
from rich.console import Console

from models.hardware import describe_hardware
from search.recipes import RECIPES
from trainables.context import StageContext, detect_device
from trainables.process.memory import keep_freed_memory
from trainables.stages.learning import Learning

Role = Literal["student", "teacher"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Arguments:
    """Network and training to show.

    Attributes:
        recipe: Name of a recipe of search/run.py.
        role: Which of the recipe's networks is trained.
        num_steps: Number of steps of the training.
        num_points: Number of evaluations, evenly spread over the training.
        data_root: Folder of the data set, if it has one.
        cache_dir: Folder for the decoded images.
        device: cpu, cuda or cuda:N.
        num_threads: Number of CPU threads; default: that of all cores.
        seed: Seed of the weights, the order and the augmentation.
        output: JSON file for the results.
    """

    recipe: tyro.conf.Positional[str]
    role: Role = "student"
    num_steps: int = 200
    num_points: int = 8
    data_root: Path | None = None
    cache_dir: Path = Path.home() / ".cache" / "segfront"
    device: str = field(default_factory=detect_device)
    num_threads: int | None = None
    seed: int = 0
    output: Path | None = None

    def __post_init__(self) -> None:
        if self.recipe not in RECIPES:
            raise ValueError(f"recipe must be one of {', '.join(RECIPES)}; got {self.recipe!r}")
        if not 1 <= self.num_points <= self.num_steps:
            raise ValueError(
                f"num_points must be from 1 to num_steps ({self.num_steps}), got {self.num_points}"
            )


def measure(arguments: Arguments, console: Console) -> dict[str, Any]:
    """Train and print a line for each evaluation; returns JSON-serialisable results.

    Raises:
        ArithmeticError: A loss is no longer finite.
        DataError: The data set cannot be used.
    """
    pipeline = RECIPES[arguments.recipe]().pipeline
    is_teacher = arguments.role == "teacher"
    network = pipeline.teacher if is_teacher else pipeline.student
    training = pipeline.teacher_training if is_teacher else pipeline.dense
    learning = Learning(
        data=replace(pipeline.data, root=arguments.data_root or pipeline.data.root),
        training=replace(training, num_steps=arguments.num_steps),
        seed=arguments.seed,
    )
    keep_freed_memory()
    context = StageContext(
        cache_dir=arguments.cache_dir, device=arguments.device, num_threads=arguments.num_threads
    )
    torch.manual_seed(arguments.seed)
    model = network.build(learning.data.open("train").num_classes)
    points = []
    with tempfile.TemporaryDirectory() as folder:
        for index in range(1, arguments.num_points + 1):
            share = index / arguments.num_points
            result = learning.run(
                model, Path(folder), context, name=arguments.role, metadata={}, share=share
            )
            step = max(1, round(share * arguments.num_steps))
            points.append({"step": step, "miou": result["miou"], "seconds": result["seconds"]})
            console.print(
                f"step {step:>6}  mIoU {result['miou']:.4f}  {result['seconds']:.0f} s",
                highlight=False,
            )
    losses = cast(
        "list[tuple[int, float]]", result["losses"]
    )  # those of the last evaluation cover the whole training
    return {
        **describe_measurement("learning_curve", arguments, describe_hardware(arguments.device)),
        "network": network.name,
        "points": points,
        "losses": losses,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status, see `run_command`."""
    return run_command(Arguments, measure, argv, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
