"""Trains tiny networks with one, two and three processes: `python shared_trainings.py FOLDER`.

FOLDER gets what each number of processes came to: `<scenario>-<processes>.safetensors`.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor, nn

from trainables.context import Progress, StageContext
from trainables.data import AugmentationConfig, TrainingStream, create_dataset
from trainables.data.frame_pairs import FramePairStream
from trainables.distillers import DISTILLERS, FeatureTaps, Lesson, build_loss
from trainables.learning.evaluation import evaluate
from trainables.learning.optimization import OptimizerConfig
from trainables.learning.training import Batch, TrainConfig, train
from trainables.learning.whole_batch import as_whole_batch
from trainables.losses import cross_entropy
from trainables.process.device_lock import DeviceLock
from trainables.process.distributed import get_rank, joined, sum_over_processes, take_part
from trainables.stages.sparse import add_l1_subgradient
from trainables.stages.teaching import ask_live

NUM_STEPS = 5
Outcome = dict[str, Tensor]
CONFIG = TrainConfig(
    num_steps=NUM_STEPS,
    batch_size=7,  # no number of processes divides it
    optimizer=OptimizerConfig(name="adamw", lr=0.003),
    average_share=0.5,
    precision="float32",
)


class Net(nn.Module):
    """Three BatchNorms, one of them without a scale and over single pixels, and two dropouts.

    In double precision, in which no rounding turns a ReLU the other way.
    """

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.second = nn.Sequential(
            nn.Dropout2d(0.3),
            nn.Conv2d(width, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width, momentum=0.3),
        )
        self.pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(width, affine=False))
        self.classes = nn.Sequential(nn.Dropout(0.2), nn.Conv2d(width, 19, 1))

    def forward(self, images: Tensor) -> Tensor:
        maps = self.second(self.first(images.to(self.classes[1].weight.dtype)))
        logits = self.classes(maps.relu() + 0.1 * self.pooled(maps))
        return nn.functional.interpolate(logits, scale_factor=4, mode="bilinear")


def build(seed: int = 0, width: int = 6) -> Net:
    torch.manual_seed(seed)
    return Net(width).double()


def open_images() -> Any:
    return create_dataset("synthetic", size=(32, 48), num_samples=9)


def make_stream() -> TrainingStream:
    return TrainingStream(open_images(), AugmentationConfig(crop_size=(32, 32)), seed=3)


def hide(target: Tensor) -> Tensor:
    """Leave each image another number of labels, and some none."""
    hidden = target.clone()
    for image in range(len(target)):
        hidden[image, : int(target[image].sum()) % 33] = 255
    return hidden


def make_context(folder: Path) -> StageContext:
    folder.mkdir(parents=True, exist_ok=True)
    return StageContext(
        cache_dir=folder, num_threads=1, device_lock=DeviceLock("cpu", folder.parent / "locks")
    )


def train_dense(folder: Path, **changes: Any) -> Outcome:
    model = build()
    weights = torch.linspace(0.5, 2.0, 19).double()
    result = train(
        model, make_stream(), CONFIG, name="dense", state_path=folder / "state",
        context=changes.pop("context", make_context(folder)),
        compute_loss=lambda logits, batch: cross_entropy(
            logits, hide(batch.target), class_weights=weights
        ),
        **changes,
    )  # fmt: skip
    losses = torch.tensor([loss for _, loss in result.losses])
    return {**model.state_dict(), "losses": losses}


def train_sparse(folder: Path) -> Outcome:
    """In mixed precision."""
    model = build().float()
    config = replace(
        CONFIG, optimizer=OptimizerConfig(lr=0.05), average_share=0.0, precision="bfloat16"
    )
    train(
        model, make_stream(), config, name="sparse", state_path=folder / "state",
        context=make_context(folder),
        compute_loss=lambda logits, batch: cross_entropy(logits, hide(batch.target)),
        adjust_gradients=lambda network: add_l1_subgradient(network, 0.01),
    )  # fmt: skip
    return dict(model.state_dict())


def train_distilled(folder: Path) -> Outcome:
    """From a live teacher, its maps too, with a projection that is trained beside the student."""
    student, teacher = build(), build(1, width=8).eval().requires_grad_(requires_grad=False)
    methods = {name: DISTILLERS[name].Settings() for name in ("dkd", "cwd_features")}
    torch.manual_seed(2)
    loss = build_loss(methods, student=student, teacher=teacher, image_size=(32, 32))
    loss = loss.double()
    ask = ask_live(teacher)
    with (
        FeatureTaps(student, loss.student_layers) as own,
        FeatureTaps(teacher, loss.teacher_layers) as other,
    ):

        def compute_loss(logits: Tensor, batch: Batch) -> Tensor:
            taught = ask(logits, batch)
            target = hide(batch.target)
            return loss.compute_total(
                Lesson(logits, taught, target, None, own.take(), other.take())
            )

        train(
            student, make_stream(), CONFIG, name="distilled", state_path=folder / "state",
            context=make_context(folder), compute_loss=compute_loss, beside=loss,
        )  # fmt: skip
    return {**student.state_dict(), **{f"beside.{k}": v for k, v in loss.state_dict().items()}}


def evaluate_whole(folder: Path) -> Outcome:
    matrix = evaluate(build(), open_images(), make_context(folder), indices=range(1, 9))
    return {"counts": matrix.counts}


def ask_distillers(folder: Path) -> Outcome:
    """Loss of every distiller and its gradient in the student, in double precision."""
    found: Outcome = {}
    torch.manual_seed(4)
    images = torch.randn(6, 3, 32, 48, dtype=torch.float64)
    target = hide(torch.randint(0, 19, (6, 32, 48)))
    target[3] = 255
    part = take_part(6, FramePairStream.num_together)
    own = slice(part.start, part.stop)
    for name in (*DISTILLERS, "kd+skd"):
        for weights in (None, torch.linspace(0.5, 2.0, 19)):
            student, teacher = build(), build(1, width=8).eval()
            methods = {part: DISTILLERS[part].Settings() for part in name.split("+")}
            torch.manual_seed(2)
            loss = build_loss(methods, student=student, teacher=teacher, image_size=(32, 48))
            loss = loss.double()
            torch.manual_seed(5)
            with (
                as_whole_batch(part, 6),
                FeatureTaps(student, loss.student_layers) as maps,
                FeatureTaps(teacher, loss.teacher_layers) as taught_maps,
            ):
                logits, taught = student(images[own]), teacher(images[own]).detach()
                lesson = Lesson(
                    logits, taught, target[own], weights, maps.take(), taught_maps.take()
                )
                total = loss.compute_total(lesson)
            total.backward()
            key = f"{name}{'' if weights is None else ' weighed'}"
            found[f"{key}: loss"] = sum_over_processes(total.detach())
            for part_name, parameter in (*student.named_parameters(), *loss.named_parameters()):
                if parameter.grad is not None:
                    found[f"{key}: {part_name}"] = sum_over_processes(parameter.grad)
    return found


def pause(folder: Path) -> Outcome:
    return train_dense(folder, pause_after=2)


def resume(folder: Path) -> Outcome:
    return train_dense(folder)


def lose_a_process(folder: Path) -> Outcome:
    """The last process is killed after step 3; says what the others see."""

    def report(progress: Progress) -> None:
        if progress.step == 3 and get_rank() == dist.get_world_size() - 1:
            os.kill(os.getpid(), signal.SIGKILL)

    seconds = 0.0 if get_rank() == 0 else math.inf
    context = replace(make_context(folder), checkpoint_seconds=seconds, report=report)
    try:
        train_dense(folder, context=context)
    except RuntimeError:
        return {"is_lost": torch.tensor(1)}
    return {"is_lost": torch.tensor(0)}


SCENARIOS: dict[str, Callable[[Path], Outcome]] = {
    "dense": train_dense,
    "sparse": train_sparse,
    "distilled": train_distilled,
    "evaluated": evaluate_whole,
    "distillers": ask_distillers,
    "paused": pause,
}


def run(names: list[str], rank: int, num_processes: int, folder: Path, label: str) -> None:
    """Be one of the processes; the leader writes what came of it."""
    torch.set_num_threads(1)
    scenarios = {**SCENARIOS, "resumed": resume, "lost": lose_a_process}

    def work() -> None:
        for name in names:
            found = scenarios[name](folder / label / f"{name}-{num_processes}-{rank}")
            if rank == 0:
                whole = {key: value.contiguous() for key, value in found.items()}
                save_file(whole, folder / f"{name}-{label}.safetensors")

    if num_processes == 1:
        work()
        return
    store = dist.FileStore(str(folder / f"store-{label}"), num_processes)
    with joined(store, rank, num_processes):
        work()


def start(names: list[str], num_processes: int, folder: Path, label: str) -> list[Any]:
    context = multiprocessing.get_context("fork")  # torch has computed nothing here
    processes = [
        context.Process(target=run, args=(names, rank, num_processes, folder, label))
        for rank in range(num_processes)
    ]
    for process in processes:
        process.start()
    return processes


def measure(lock: DeviceLock, processes: list[Any]) -> None:
    """Want their device alone again and again, which must not keep them waiting for each other."""
    while any(process.is_alive() for process in processes):
        with lock.exclusive():
            time.sleep(0.001)
        time.sleep(0.01)


def main(folder: Path) -> None:
    first = [p for n in (1, 2, 3) for p in start(list(SCENARIOS), n, folder, str(n))]
    lost = start(["lost"], 3, folder, "lost")
    measure(DeviceLock("cpu", folder / "3" / "locks"), first)
    for process in (*first, *lost):
        process.join()
    assert [p.exitcode for p in first] == [0] * 6
    assert lost[2].exitcode == -signal.SIGKILL
    second = []
    for before, after in ((1, 3), (3, 2), (2, 1), ("lost", 1)):
        label = f"{before}-{after}"
        name, number = ("lost", 3) if before == "lost" else ("paused", before)
        state = folder / str(before) / f"{name}-{number}-0" / "state"
        target = folder / label / f"resumed-{after}-0"
        target.mkdir(parents=True)
        (target / "state").write_bytes(state.read_bytes())
        second += start(["resumed"], after, folder, label)
    for process in second:
        process.join()
    assert [p.exitcode for p in second] == [0] * 7


if __name__ == "__main__":
    main(Path(sys.argv[1]))
