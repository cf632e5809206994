"""Build the papers' tables, with our rows beside the papers'."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from analysis.papers import published_tables as published
from analysis.papers.own_numbers import (
    OwnNetwork,
    describe_conditions,
    find_best,
    list_networks,
    read_stage,
)
from analysis.papers.published_tables import (
    AFTER,
    BEFORE,
    CLASS,
    LATENCY,
    MACS,
    MIOU,
    NETWORK,
    PARAMS,
    RATIO,
    SIZE,
    SPEED,
    Row,
)  # fmt: skip
from analysis.results import Run, Trial
from analysis.run_description import describe_data

SOURCE, OURS, PAPER, NOTE = "Numbers", "ours", "paper", "Note"
RATIOS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7)


class PaperTable(NamedTuple):
    """A table of a paper, with our numbers added.

    Attributes:
        name: Name for files.
        title: Title, with the paper and the number of its table.
        conditions: Conditions under which the paper's and our numbers were measured.
        rows: One row for each entry and source.
    """

    name: str
    title: str
    conditions: list[str]
    rows: pd.DataFrame


def build_tables(runs: Sequence[Run]) -> list[PaperTable]:
    """Build tables 2 to 4 of paper 1 and tables 1 to 4 of paper 3.

    Args:
        runs: Runs, which may differ in any way.
    """
    ours = describe_conditions(runs)
    networks = list_networks(runs)
    best = "If several trials have the same ratio, the one with the highest mIoU is shown."
    sizes = [_describe_sized(network) for network in networks]
    return [
        PaperTable(
            "paper1_table2",
            "Networks side by side (paper 1, table 2)",
            [published.PAPER_1, ours],
            _join(NETWORK, published.NETWORKS_1, [_describe(network) for network in networks]),
        ),
        PaperTable(
            "paper1_table3",
            "Pruning ratios, fine-tuned without a teacher (paper 1, table 3)",
            [published.PAPER_1, ours, best, "Ratio 0 is the network after sparse training."],
            _join(RATIO, published.RATIOS_1, _ratio_rows(runs)),
        ),
        PaperTable(
            "paper1_table4",
            "Before and after distillation (paper 1, table 4)",
            [published.PAPER_1 + "; T 4, α 1, β 8, η 1", ours, best],
            _join(RATIO, published.DISTILLATION_1, _distillation_rows(runs)),
        ),
        PaperTable(
            "paper3_table1",
            "Ablation of TBFENet (paper 3, table 1)",
            [published.PAPER_3_CAMVID, ours, "We train only the whole TBFENet."],
            _join(
                NETWORK,
                published.ABLATION_3,
                [_describe(n, (PARAMS, MIOU)) for n in networks if n.label == "TBFENet"],
            ),
        ),
        PaperTable(
            "paper3_table2",
            "Networks on CamVid (paper 3, table 2)",
            [published.PAPER_3_CAMVID, ours],
            _join(NETWORK, published.CAMVID_3, sizes),
        ),
        PaperTable(
            "paper3_table3",
            "Networks on Cityscapes (paper 3, table 3)",
            [published.PAPER_3_CITYSCAPES, ours],
            _join(NETWORK, published.CITYSCAPES_3, sizes),
        ),
        PaperTable(
            "paper3_table4",
            "IoU by class in percent (paper 3, table 4)",
            [
                published.PAPER_3_CITYSCAPES,
                published.PAPER_3_AVERAGES,
                ours,
                "CamVid's classes are shown as the most similar classes of Cityscapes.",
            ],
            _join(CLASS, published.CLASSES_3, _class_rows(networks)),
        ),
    ]


def _join(key: str, paper: Sequence[Row], ours: Sequence[Row]) -> pd.DataFrame:
    """Put the paper's and our rows below each other, sorted by key: by number or in paper order."""
    rows = [{**row, SOURCE: PAPER} for row in paper] + [{**row, SOURCE: OURS} for row in ours]
    keys = list(dict.fromkeys(row[key] for row in rows))
    if all(isinstance(value, float) for value in keys):
        keys.sort(key=float)
    order = {value: index for index, value in enumerate(keys)}
    rows.sort(key=lambda row: (order[row[key]], row[SOURCE] == OURS))
    names = dict.fromkeys(name for row in [*paper, *ours] for name in row)
    columns = [key, SOURCE, *(name for name in names if name not in (key, SOURCE, NOTE))]
    columns += [NOTE] if NOTE in names else []
    return pd.DataFrame(rows, columns=columns)


def _describe(network: OwnNetwork, wanted: Sequence[str] = (PARAMS, MIOU, MACS, LATENCY)) -> Row:
    known = _show(network.baseline.values)
    return {NETWORK: network.label, **{name: known[name] for name in wanted if name in known}}


def _describe_sized(network: OwnNetwork) -> Row:
    latency = network.run.metadata.get("latency") or {}
    size = " × ".join(str(side) for side in latency.get("resolution") or [])
    row = {SIZE: size, **_describe(network)}
    milliseconds = row.pop(LATENCY, None)
    if isinstance(milliseconds, float) and milliseconds > 0:
        row[SPEED] = 1000 / milliseconds
    held_out = network.run.held_out.get(network.baseline.name)
    split = "val" if held_out is None else "test"
    if held_out is not None:
        row[MIOU] = 100 * held_out.miou
    data = (network.run.metadata.get("dataset") or {}).get("name", "")
    return {**row, NOTE: f"mIoU on {data} {split}"}


def _show(values: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of a trial or a baseline in the papers' units."""
    units = {
        PARAMS: ("num_params", 1e-6),
        MIOU: ("miou", 100.0),
        MACS: ("macs", 1e-9),
        LATENCY: ("latency_ms", 1.0),
    }
    return {title: values[name] * scale for title, (name, scale) in units.items() if name in values}


def _ratio_rows(runs: Sequence[Run]) -> list[Row]:
    rows: list[Row] = []
    for ratio in RATIOS:
        found = find_best(runs, ratio, taught=False)
        if found is None:
            continue
        run, trial, count = found
        if not rows:
            rows += _unpruned_row(run, trial)
        note = f"trial {trial.number} of {run.name}, best of {count}"
        rows.append({RATIO: ratio, **_show(trial.measures), NOTE: note})
    return rows


def _unpruned_row(run: Run, trial: Trial) -> list[Row]:
    """Return the unpruned network's row: the student's costs, and mIoU after sparse training."""
    folders = set(trial.stages.values())
    student = next((item for item in run.baselines if item.stage and item.stage in folders), None)
    sparse = read_stage(run, trial.stages.get("sparse", ""))
    if student is None:
        return []
    row: Row = {RATIO: 0.0, **_show(student.values)}
    if "miou" in sparse:
        return [{**row, MIOU: 100 * float(sparse["miou"]), NOTE: "after sparse training"}]
    return [{**row, NOTE: "dense, before sparse training"}]


def _distillation_rows(runs: Sequence[Run]) -> list[Row]:
    rows: list[Row] = []
    for ratio in RATIOS:
        after = find_best(runs, ratio, taught=True)
        if after is None:
            continue
        run, trial, count = after
        known = _show(trial.measures)
        before = find_best([run], ratio, taught=False)
        row: Row = {RATIO: ratio, **{n: known[n] for n in (PARAMS, LATENCY) if n in known}}
        if before is not None:
            row[BEFORE] = 100 * before[1].measures["miou"]
        row[AFTER] = known.get(MIOU, math.nan)
        row[NOTE] = f"trial {trial.number} of {run.name}, best of {count}"
        rows.append(row)
    return rows


def _class_rows(networks: Sequence[OwnNetwork]) -> list[Row]:
    """Return a row for each class; a network that was trained on several data has a column each."""
    rows: dict[str, Row] = {}
    labels = [network.label for network in networks]
    for network in networks:
        is_alone = labels.count(network.label) == 1
        title = network.label if is_alone else f"{network.label} ({describe_data(network.run)})"
        for name, value in network.iou.items():
            shared = published.SAME_CLASS.get(name, name)
            rows.setdefault(shared, {CLASS: shared})[title] = 100 * value
    return list(rows.values())
