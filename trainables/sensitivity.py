"""Sensitivity scan: masks each group of channels, to see what pruning would cost."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from models.channels.groups import ChannelGroup, find_groups, remove_units
from models.channels.masking import mask_channels
from models.channels.selection import count_locally, find_lowest
from models.channels.sensitivity import GroupSensitivity, Sensitivity
from models.network import SegmentationNetwork, copy_to_cpu
from models.pruning import find_traced_size
from models.unit_costs import count_saved_macs
from trainables.context import StageContext, within_threads
from trainables.data import SegmentationDataset, normalization_of, normalize
from trainables.learning.training import Precision, autocast, place
from trainables.losses import cross_entropy
from trainables.metrics import ConfusionMatrix
from trainables.pipeline_config import SensitivityConfig
from trainables.process.watchdog import note_progress

RATIOS = (0.1, 0.3, 0.5, 0.7)
JOINT_RATIOS = (0.05, 0.1, 0.2, 0.3, 0.5)
LARGEST_LOSS_AT_ONCE = 0.2
"""Largest relative loss of mIoU at the first of `JOINT_RATIOS` without a warning."""
LARGEST_LOSS_OF_A_GROUP = 0.05
"""The same for a single group at the first of `RATIOS`."""
_MAX_NAMES = 5

logger = logging.getLogger(__name__)


class Outcome(NamedTuple):
    """Accuracy on the images of the scan.

    Attributes:
        loss: Cross-entropy in nats.
        miou: mIoU in 0..1.
    """

    loss: float
    miou: float


@within_threads
def scan_sensitivity(
    model: SegmentationNetwork,
    dataset: SegmentationDataset,
    context: StageContext,
    *,
    importance: str = "bn_scale",
    measured: Mapping[str, Tensor] | None = None,
    num_images: int = 8,
    ratios: Sequence[float] = RATIOS,
    joint_ratios: Sequence[float] = JOINT_RATIOS,
    precision: Precision = "auto",
    max_seconds: float | None = None,
) -> Sensitivity:
    """Mask the least important channels of each group alone, then of all, and measure the loss.

    Nothing is trained or removed: masking has the same effect as removing
    (`models.channels.masking`).

    Source: Li et al., "Pruning filters for efficient ConvNets", 2017,
        https://arxiv.org/abs/1608.08710, section 3.2.

    Args:
        model: Unpruned network, which is not changed.
        dataset: Training images; `num_images` of them are used, evenly spread and at full size.
        context: Device, threads and lock.
        importance: A key of `models.channels.importance.IMPORTANCES`.
        measured: Measured scores, as for `models.pruning.prune`.
        num_images: Number of images, at least 1.
        ratios: Fractions of one group to mask, ascending, in 0..1.
        joint_ratios: Pruning ratios at which to mask everything that scope "local" would remove.
        precision: Precision of the forward pass, as in training.
        max_seconds: Time after which no more groups are masked alone; None: no limit.

    Returns:
        The scan, with warnings about very sensitive layers.

    Raises:
        ValueError: There are no images, or the ratios are not ascending in 0..1.
        PruningError: The network does not run.
    """
    _check(num_images, {"ratios": ratios, "joint_ratios": joint_ratios})
    started = time.monotonic()
    judge = _Judge(dataset, context, num_images, precision)
    work = copy_to_cpu(model)
    traced, _ = find_traced_size(work, dataset.common_size)  # `prune` traces at this size too
    groups = find_groups(work, torch.zeros(1, 3, *traced), importance, measured=measured).groups
    whole = judge(work)

    def silence(counts: Sequence[tuple[ChannelGroup, int]]) -> Outcome:
        units = [
            group.units[i] for group, count in counts for i in find_lowest(group.scores, count)
        ]
        masked = copy.deepcopy(work)
        mask_channels(masked, remove_units(work, units))
        return judge(masked)

    joint = [
        silence([(g, len(g.units) - count_locally(len(g.units), ratio)) for g in groups])
        for ratio in joint_ratios
    ]
    saved = count_saved_macs(work, groups, dataset.common_size)
    scanned = []
    for number, (group, macs) in enumerate(zip(groups, saved, strict=True), start=1):
        if max_seconds is not None and time.monotonic() - started > max_seconds:
            break
        note_progress(f"group {number} of {len(groups)} of the sensitivity scan")
        size = len(group.units)
        counts = sorted({_count_silenced(size, ratio) for ratio in ratios} - {0})
        outcomes = [silence([(group, count)]) for count in counts]
        scanned.append(
            GroupSensitivity(
                name=group.name,
                size=size,
                macs=macs,
                ratios=tuple(count / size for count in counts),
                losses=tuple(outcome.loss for outcome in outcomes),
                mious=tuple(outcome.miou for outcome in outcomes),
            )
        )
    return Sensitivity(
        loss=whole.loss,
        miou=whole.miou,
        num_images=judge.num_images,
        groups=tuple(scanned),
        joint_ratios=tuple(joint_ratios),
        joint_mious=tuple(outcome.miou for outcome in joint),
        seconds=time.monotonic() - started,
        warnings=_find_warnings(whole, scanned, list(zip(joint_ratios, joint, strict=True))),
    )


def scan_briefly(
    model: SegmentationNetwork,
    dataset: SegmentationDataset,
    context: StageContext,
    scan: SensitivityConfig,
) -> dict[str, Any]:
    """Scan an uncompressed network at the smallest ratios, in seconds, and log the warnings.

    Args:
        model: The network.
        dataset: Training images.
        context: Device, threads and lock.
        scan: Length of the scan.

    Returns:
        "findings": what the network bears, as a sentence under "sensitivity"; "warnings": see
        `scan_sensitivity`. If the network cannot be scanned, there is no finding, and the warning
        says why.
    """
    try:
        found = scan_sensitivity(
            model, dataset, context, num_images=scan.num_images, ratios=RATIOS[:1],
            joint_ratios=JOINT_RATIOS[:1], max_seconds=scan.max_seconds,
        )  # fmt: skip
    except Exception as error:  # a user's network may raise any exception
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        findings, warnings = {}, [f"what the network bears could not be measured: {reason}"]
    else:
        warnings = list(found.warnings)
        sentence = (
            f"without the {found.joint_ratios[0]:.0%} of each layer's channels with the smallest "
            f"BatchNorm scales the network has {found.joint_mious[0]:.1%} mIoU instead of "
            f"{found.miou:.1%} ({found.num_images} training images, before any fine-tuning)"
        )
        findings = {"sensitivity": sentence}
    for text in warnings:
        logger.warning(text)
    return {"findings": findings, "warnings": warnings}


class _Judge:
    """Compares a network's predictions with the labels of a few images.

    Args:
        dataset: Data set of the images.
        context: Device, threads and lock.
        num_images: Number of images.
        precision: Precision of the forward pass.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
        context: StageContext,
        num_images: int,
        precision: Precision,
    ) -> None:
        self.num_images = min(num_images, len(dataset))
        self._dataset = dataset
        self._context = context
        self._precision = precision
        self._device = torch.device(context.device)
        picked = (index * len(dataset) // self.num_images for index in range(self.num_images))
        self._samples = [dataset[index] for index in picked]

    @torch.inference_mode()
    def __call__(self, model: nn.Module) -> Outcome:
        place(model, self._device).eval()
        matrix = ConfusionMatrix(self._dataset.num_classes, self._dataset.ignore_index)
        losses = []
        for sample in self._samples:
            images = normalize(sample.image.unsqueeze(0).to(self._device), normalization_of(model))
            with self._context.device_lock.shared(), autocast(self._precision, self._device):
                logits: Tensor = model(images)
                prediction = logits.argmax(dim=1).cpu()
            target = sample.target.unsqueeze(0)
            losses.append(float(cross_entropy(logits.cpu(), target, self._dataset.ignore_index)))
            matrix.update(prediction, target)
        return Outcome(sum(losses) / len(losses), matrix.miou)


def _check(num_images: int, ratios_by_name: Mapping[str, Sequence[float]]) -> None:
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}")
    for name, ratios in ratios_by_name.items():
        ascend = all(a < b for a, b in pairwise(ratios))
        if not ratios or not ascend or not (ratios[0] > 0 and ratios[-1] < 1):
            raise ValueError(
                f"{name} must be ascending in 0..1 (both excluded), got {tuple(ratios)}"
            )


def _count_silenced(size: int, ratio: float) -> int:
    """Count the channels to mask: at least one, but never all of them."""
    return min(max(1, math.floor(size * ratio + 1e-9)), size - 1)


def _find_warnings(
    whole: Outcome, groups: Sequence[GroupSensitivity], joint: Sequence[tuple[float, Outcome]]
) -> tuple[str, ...]:
    """Return warnings about very sensitive layers."""
    found = []
    ratio, outcome = joint[0]
    if outcome.miou < (1 - LARGEST_LOSS_AT_ONCE) * whole.miou:
        found.append(
            f"the network is very sensitive: without the {ratio:.0%} of its channels with the "
            f"smallest BatchNorm scales its mIoU falls from {whole.miou:.1%} to "
            f"{outcome.miou:.1%} (training images, before any fine-tuning); Taylor scores over the "
            "whole network choose better (--space.importance taylor --space.scope global; the "
            "recipes camvid and quickstart use them), and small steps of the pruning ratio harm "
            "less"
        )
    weak = [
        group for group in groups
        if group.mious and group.mious[0] < (1 - LARGEST_LOSS_OF_A_GROUP) * whole.miou
    ]  # fmt: skip
    weak.sort(key=lambda group: group.mious[0])
    if weak:
        names = ", ".join(
            f"{group.name} ({whole.miou:.1%} to {group.mious[0]:.1%} without "
            f"{round(group.ratios[0] * group.size)} of {group.size})"
            for group in weak[:_MAX_NAMES]
        )
        more = f" and {len(weak) - _MAX_NAMES} more" if len(weak) > _MAX_NAMES else ""
        found.append(f"layers whose least important channels already matter: {names}{more}")
    return tuple(found)
