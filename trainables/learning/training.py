"""The training loop of every stage: resumable at any step with the same result."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from models import WithAuxiliary
from models.hardware import bfloat16_is_fast
from models.normalization import IMAGENET, Normalization
from trainables.context import Progress, StageContext, within_threads
from trainables.data import (
    Sample,
    TaughtSample,
    TrainingStream,
    make_loader,
    normalization_of,
    normalize,
)
from trainables.learning.optimization import OptimizerConfig, build_optimizer, set_learning_rate
from trainables.learning.training_state import load_training_state, save_training_state
from trainables.learning.weight_average import WeightAverage
from trainables.learning.whole_batch import as_whole_batch
from trainables.losses import cross_entropy
from trainables.process.distributed import (
    count_processes,
    get_rank,
    share_file,
    sharing_device,
    sum_gradients,
    sum_over_processes,
    take_part,
)
from trainables.process.preemption import must_save, note_saved, saving_before_the_end
from trainables.process.watchdog import note_progress

Precision = Literal["auto", "float32", "bfloat16"]


class Batch(NamedTuple):
    """The data of one training step, on its device.

    Attributes:
        images: Images normalised for the network in training, (N, 3, H, W) float32.
        target: Labels, (N, H, W) uint8.
        pixels: The same images before normalisation, (N, 3, H, W) uint8 RGB, for a network with
            another normalisation, such as a live teacher.
        teacher_logits: Logits of the teacher, (N, C, ceil(H / stride), ceil(W / stride)) float16,
            if the stream has them.
        teacher_maps: Maps of the teacher's layers likewise, by name.
    """

    images: Tensor
    target: Tensor
    teacher_logits: Tensor | None = None
    pixels: Tensor | None = None
    teacher_maps: Mapping[str, Tensor] = {}


# (logits (N, C, H, W), batch) -> scalar loss
LossFunction = Callable[[Tensor, Batch], Tensor]


class TrainingDiverged(ArithmeticError):  # noqa: N818 - the name says what happened
    """The loss is no longer finite; the same settings would diverge again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Settings of a training.

    Attributes:
        num_steps: Number of updates, at least 1.
        batch_size: Number of images per update, at least 2 (BatchNorm).
        optimizer: Optimiser and schedule.
        precision: Precision of the forward pass (mixed precision; weights and updates stay
            float32). auto: bfloat16 if the hardware supports it natively, else float32.
        channels_last: Whether to use the channels_last memory format, where it is safe.
        auxiliary_weight: Weight of the loss of each auxiliary head, a cross-entropy without class
            weights.
        class_weighting: Class weights of the main head's cross-entropy: none, or enet: 1 / ln(1.02
            + fraction of the class in the training pixels), which gives rare classes such as poles
            and signs more weight (Paszke et al., "ENet", 2016, section 5.2).
        class_weight_power: Exponent of these weights, in 0..1; below 1 it reduces false positives
            of rare classes.
        batchnorm_batches: Number of batches of uncropped training images on which the BatchNorm
            statistics are re-estimated before the network is evaluated and saved, because
            statistics of crops may not fit whole images (`docs/trial_designs.md`). 0: keep those of
            the training.
        average_share: Horizon of a moving average of the weights, as a fraction of num_steps in
            0..1; the network is evaluated and saved with the average. 0: use the last weights.
    """

    num_steps: int = 1000
    batch_size: int = 8
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    precision: Precision = "auto"
    channels_last: bool = True
    auxiliary_weight: float = 0.4
    class_weighting: Literal["none", "enet"] = "none"
    class_weight_power: float = 1.0
    batchnorm_batches: int = 0
    average_share: float = 0.0

    def __post_init__(self) -> None:
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {self.num_steps}")
        if not 0 <= self.class_weight_power <= 1:
            raise ValueError(f"class_weight_power must be in 0..1, got {self.class_weight_power}")
        if self.batchnorm_batches < 0:
            raise ValueError(f"batchnorm_batches must be at least 0, got {self.batchnorm_batches}")
        if not 0 <= self.average_share <= 1:
            raise ValueError(f"average_share must be in 0..1, got {self.average_share}")
        if self.batch_size < 2:
            raise ValueError(f"batch_size must be at least 2 (BatchNorm), got {self.batch_size}")


class TrainResult(NamedTuple):
    """The result of a training besides the weights.

    Attributes:
        seconds: Working time over all sessions.
        losses: Loss curve, (step, loss in nats) at about every hundredth of the steps.
    """

    seconds: float
    losses: list[tuple[int, float]]


@saving_before_the_end()
@within_threads
def train(
    model: nn.Module,
    stream: TrainingStream,
    config: TrainConfig,
    *,
    name: str,
    state_path: Path,
    context: StageContext,
    compute_loss: LossFunction = lambda logits, batch: cross_entropy(logits, batch.target),
    adjust_gradients: Callable[[nn.Module], None] | None = None,
    beside: nn.Module | None = None,
    pause_after: int | None = None,
) -> TrainResult:
    """Train in place, resuming from `state_path` if it exists.

    Order, augmentation, learning rate and dropout are functions of the step and the seed, so an
    interrupted training continues as if it had not been interrupted (bit by bit on a CPU with the
    same number of threads). Several processes (`trainables.process.distributed`) divide each batch
    and reach the same weights up to rounding, and a training may be resumed by any number of them.

    Args:
        model: Network on the CPU or the device. It ends in train mode on `context.device`, with
            averaged weights if these are configured (also after a pause; the saved state has both).
        stream: Training samples.
        config: Settings of the training.
        name: Name of the stage, for progress and errors.
        state_path: File of the unfinished state, written every `context.checkpoint_seconds` and
            when the process is asked to end.
        context: Device, threads, progress report.
        compute_loss: Function that maps logits (N, C, H, W) and a batch to a scalar loss. With
            several processes each computes its share, and the shares add up to the loss of the
            whole batch.
        adjust_gradients: Function that is called after each backward pass, before clipping and the
            update.
        beside: Module that is trained together with the network, such as a distiller's projections.
            It is part of the saved state, not of the network, and its gradients are clipped
            separately.
        pause_after: Number of steps after which the state is saved and the training pauses; None:
            train to the end.

    Returns:
        Seconds and loss curve.

    Raises:
        TrainingDiverged: A loss is NaN or infinite.
        TrainingStateError: `state_path` is damaged.
    """
    device = torch.device(context.device)
    channels_last = config.channels_last and not breaks_in_channels_last(model, device)
    place(model, device, channels_last=channels_last).train()
    trained = [model]
    if beside is not None and any(True for _ in beside.parameters()):
        trained.append(beside.to(device).train())
    optimizer = build_optimizer(model, config.optimizer, beside)
    average = None
    if config.average_share > 0:
        average = WeightAverage(model, max(1.0, config.average_share * config.num_steps))
    progress: dict[str, Any] = {"step": 0, "seconds": 0.0, "losses": []}
    part = take_part(config.batch_size, stream.num_together)
    if count_processes() > 1:
        if get_rank() == 0 and not state_path.exists():
            save_training_state(state_path, model, optimizer, progress, average, beside)
        share_file(state_path)
    if state_path.exists():
        progress = load_training_state(state_path, model, optimizer, average, beside)

    last_step = config.num_steps if pause_after is None else min(pause_after, config.num_steps)
    first_step, losses = progress["step"], [tuple(pair) for pair in progress["losses"]]
    loader = make_loader(
        stream,
        batch_size=config.batch_size,
        num_steps=max(first_step, last_step),
        start_step=first_step,
        num_workers=context.num_workers,
        part=part,
    )
    record_every = max(1, config.num_steps // 100)
    started, last_saved = time.monotonic(), context.began
    note_progress(f"step {first_step} of {config.num_steps}")
    for step, samples in enumerate(loader, start=first_step):
        torch.manual_seed(_dropout_seed(stream.seed, step))
        set_learning_rate(optimizer, config.optimizer.learning_rate(step, config.num_steps))
        with sharing_device(context.device_lock):
            batch = bring_batch(
                samples, device, normalization_of(model), channels_last=channels_last
            )
            with autocast(config.precision, device), as_whole_batch(part, config.batch_size):
                loss = _total_loss(model(batch.images), batch, compute_loss, config)
            loss.backward()  # type: ignore[no-untyped-call]
            sum_gradients(trained)
            if adjust_gradients is not None:
                adjust_gradients(model)
            if config.optimizer.max_grad_norm is not None:
                for module in trained:
                    nn.utils.clip_grad_norm_(module.parameters(), config.optimizer.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update(step + 1)
            value = float(sum_over_processes(loss.detach().double().cpu()))
        if not math.isfinite(value):
            raise TrainingDiverged(
                f"{name}: the loss is {value} at step {step} of {config.num_steps} "
                f"(learning rate {config.optimizer.learning_rate(step, config.num_steps):.3g})"
            )
        done = step + 1
        note_progress(f"step {done} of {config.num_steps}")
        context.count("step")
        if done % record_every == 0 or done == config.num_steps:
            losses.append((done, value))
        now = time.monotonic()
        is_pausing = done == last_step < config.num_steps
        is_due = now - last_saved > context.checkpoint_seconds or must_save()
        if is_pausing or (is_due and done < config.num_steps):
            seconds = progress["seconds"] + now - started
            saved = {"step": done, "seconds": seconds, "losses": losses}
            save_training_state(state_path, model, optimizer, saved, average, beside)
            context.keep_state(state_path)
            note_saved()
            last_saved = time.monotonic()
        if losses and losses[-1][0] == done:  # after saving, because Ray does not wait at the end
            context.report(Progress(name, done, config.num_steps, loss=value))
    if average is not None:
        average.write_into_model()
    return TrainResult(progress["seconds"] + time.monotonic() - started, losses)


def place(model: nn.Module, device: torch.device, *, channels_last: bool = True) -> nn.Module:
    """Move a network to a device, in the memory format that is fastest there."""
    model.to(device)
    return model.to(memory_format=torch.channels_last) if channels_last else model


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[None]:
    """Return the context of a forward pass; "auto" uses bfloat16 if the hardware is fast at it."""
    enabled = precision == "bfloat16" or (precision == "auto" and bfloat16_is_fast(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def breaks_in_channels_last(model: nn.Module, device: torch.device) -> bool:
    """Return whether the gradient of a convolution would corrupt memory on the CPU.

    The weight gradient of a strided 1x1 convolution with fewer than 8 input channels corrupts the
    heap in channels_last (torch 2.15, oneDNN on AVX2; seen for 2 to 7 channels, with 1 thread,
    tested by `tests/trainables/test_training.py`). Pruning narrow networks makes such layers.
    """
    return device.type == "cpu" and any(
        isinstance(layer, nn.Conv2d)
        and layer.kernel_size == (1, 1)
        and layer.stride != (1, 1)
        and layer.in_channels < 8
        for layer in model.modules()
    )


def bring_batch(
    samples: Sample | TaughtSample,
    device: torch.device,
    normalization: Normalization = IMAGENET,
    *,
    channels_last: bool = True,
) -> Batch:
    """Move the loader's samples to the device and normalise the images there."""
    pixels = samples.image.to(device, non_blocking=True)
    images = normalize(pixels, normalization)
    if not channels_last:
        images = images.contiguous()
    target = samples.target.to(device, non_blocking=True)
    if not isinstance(samples, TaughtSample):
        return Batch(images, target, pixels=pixels)
    taught = samples.teacher_logits.to(device, non_blocking=True)
    maps = {key: m.to(device, non_blocking=True) for key, m in samples.teacher_maps.items()}
    return Batch(images, target, taught, pixels, maps)


def _total_loss(
    output: Tensor | WithAuxiliary, batch: Batch, compute_loss: LossFunction, config: TrainConfig
) -> Tensor:
    if not isinstance(output, WithAuxiliary):
        return compute_loss(output, batch)
    loss = compute_loss(output.logits, batch)
    for logits in output.auxiliary:
        loss = loss + config.auxiliary_weight * cross_entropy(logits, batch.target)
    return loss


def _dropout_seed(seed: int, step: int) -> int:
    digest = hashlib.blake2b(f"dropout/{seed}/{step}".encode(), digest_size=7).digest()
    return int.from_bytes(digest, "big")
