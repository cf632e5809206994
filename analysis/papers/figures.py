"""The papers' figures: mIoU and loss over training, and predictions side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from analysis.figures import theme
from analysis.papers.own_numbers import list_networks, read_stage
from analysis.picture_section import name_network
from analysis.results import Run

MOST_IMAGES = 4
MOST_ROWS = 16
CHAIN = ("dense", "sparse", "distilled")


class Curve(NamedTuple):
    """A line over training steps."""

    name: str
    steps: list[float]
    values: list[float]


class PaperFigure(NamedTuple):
    """A figure that was drawn.

    Attributes:
        file: Name of the PNG file.
        title: Title, with the paper and the number of its figure.
        alt: Alternative text for readers who cannot see the figure.
        remark: Difference from the paper's figure; "" for none.
    """

    file: str
    title: str
    alt: str
    remark: str = ""


def write_figures(runs: Sequence[Run], folder: Path) -> list[PaperFigure]:
    """Draw figures 6 to 8 of paper 1 (figure 8 is also paper 3's figure 7) if the runs have them.

    Args:
        runs: Runs, which may differ in any way.
        folder: Folder to write to.
    """
    drawn = []
    accuracy, losses = get_miou_curves(runs), get_loss_curves(runs)
    if accuracy:
        _draw_curves(accuracy, "mIoU (%)", folder / "paper1_figure6.png", marker="o")
        remark = "Our mIoU is measured at the end of each stage (dense, sparse, fine-tuned) only."
        drawn.append(
            PaperFigure(
                "paper1_figure6.png",
                "mIoU over training (paper 1, figure 6)",
                "; ".join(f"{c.name} ends at {c.values[-1]:.1f} %" for c in accuracy),
                remark,
            )
        )
    if losses:
        _draw_curves(losses, "Loss (nats)", folder / "paper1_figure7.png")
        drawn.append(
            PaperFigure(
                "paper1_figure7.png",
                "Loss over training (paper 1, figure 7)",
                "; ".join(f"{c.name} ends at {c.values[-1]:.2f}" for c in losses),
            )
        )
    for run in runs:
        file = f"paper1_figure8-{run.name}.png"
        if run.pictures is not None and run.pictures.images:
            _draw_predictions(run, folder / file)
            drawn.append(
                PaperFigure(
                    file,
                    f"Predictions side by side, {run.name} (paper 1, figure 8; paper 3, figure 7)",
                    "One row each for the images, the labels and every network; one column per "
                    "image",
                )
            )
    return drawn


def get_loss_curves(runs: Sequence[Run]) -> list[Curve]:
    """Return the training loss of every uncompressed network."""
    curves = []
    for network in list_networks(runs):
        losses = read_stage(network.run, network.baseline.stage).get("losses") or []
        if losses:
            steps, values = zip(*losses, strict=True)
            curves.append(Curve(network.label, list(map(float, steps)), list(map(float, values))))
    return curves


def get_miou_curves(runs: Sequence[Run]) -> list[Curve]:
    """Return mIoU after each stage over the steps so far, for each complete trial's pipeline.

    Trials that continue another trial's network are left out, because the papers prune once.
    """
    curves = []
    for run in runs:
        for trial in run.trials:
            if trial.state != "complete" or trial.continues is not None:
                continue
            steps, curve = 0.0, Curve(f"trial {trial.number}", [], [])
            for stage in CHAIN:
                result = read_stage(run, trial.stages.get(stage, ""))
                if "miou" in result and "steps" in result:
                    steps += float(result["steps"])
                    curve.steps.append(steps)
                    curve.values.append(100 * float(result["miou"]))
            if curve.steps:
                curves.append(curve)
    return curves


def _draw_curves(curves: Sequence[Curve], title: str, path: Path, *, marker: str = "") -> None:
    figure = Figure(figsize=(8, 5.2), dpi=160, layout="constrained")
    axes = figure.add_subplot()
    colors = mpl.colormaps["tab20"]
    for index, curve in enumerate(curves):
        label = curve.name.replace("$", r"\$") if index < MOST_ROWS else None
        axes.plot(
            curve.steps, curve.values, label=label, color=colors(index % 20), marker=marker, lw=1.4
        )
    axes.set_xlabel("Training steps", color=theme.MUTED)
    axes.set_ylabel(title, color=theme.MUTED)
    axes.grid(color=theme.GRID)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False, fontsize=8)
    figure.savefig(path)


def _draw_predictions(run: Run, path: Path) -> None:
    pictures = run.pictures
    if pictures is None:
        return
    images = pictures.images[:MOST_IMAGES]
    rows = [("Image", [image.image for image in images]), ("Label", [i.label for i in images])]
    rows += [
        (name_network(network), [image.predictions[network.key] for image in images])
        for network in pictures.networks[: MOST_ROWS - 2]
    ]
    height, width = images[0].shown_size
    figure = Figure(
        figsize=(2.4 * len(images) + 1.2, 2.4 * height / width * len(rows) + 0.2), dpi=110
    )
    grid = figure.subplots(len(rows), len(images), squeeze=False)
    for (name, files), line in zip(rows, grid, strict=True):
        for file, axes in zip(files, line, strict=True):
            with Image.open(pictures.folder / file) as picture:
                axes.imshow(np.asarray(picture.convert("RGB")), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.spines[:].set_visible(False)
        line[0].set_ylabel(
            name.replace("$", r"\$"), rotation=0, ha="right", va="center", fontsize=8
        )
    figure.subplots_adjust(
        left=0.16, right=0.995, top=0.995, bottom=0.005, hspace=0.04, wspace=0.03
    )
    figure.savefig(path)
