from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import pandas as pd
import pytest

from analysis.papers import published_tables
from analysis.papers.__main__ import main, write_papers
from analysis.papers.figures import get_loss_curves, get_miou_curves
from analysis.papers.own_numbers import find_best
from analysis.papers.tables import build_tables
from analysis.papers.writing import render_latex
from analysis.published import PUBLISHED
from analysis.results import load_run


@pytest.fixture
def run(tmp_path):
    """A run of two students; the dual-branch one is pruned with and without a teacher."""
    folder = tmp_path / "run_1"
    stages = {
        "dual-a": {"miou": 0.44, "steps": 600, "losses": [[1, 2.5], [600, 0.5]],
                   "iou": {"sky": 0.9, "tree": 0.7, "car": None}},
        "fast-b": {"miou": 0.40, "steps": 600, "losses": [[600, 0.7]], "iou": {"sky": 0.8}},
        "sparse-c": {"miou": 0.43, "steps": 150},
        "distilled-0": {"miou": 0.36, "steps": 200},
    }  # fmt: skip
    for name, result in stages.items():
        (folder / "stages" / name).mkdir(parents=True)
        (folder / "stages" / name / "result.json").write_text(json.dumps({"result": result}))
    costs = {"latency_ms": 20.0, "num_params": 2e6, "macs": 1.5e9}
    baselines = [
        {"name": "teacher", "model": "deeplabv3plus", "role": "teacher", "miou": 0.6, **costs},
        {"name": "dual_branch", "model": "dual_branch", "role": "student", "miou": 0.44,
         "stage": "dual-a", **costs},
        {"name": "fast_scnn", "model": "fast_scnn", "role": "student", "miou": 0.40,
         "stage": "fast-b", **costs},
    ]  # fmt: skip
    metadata = {
        "recipe": "papers_camvid",
        "objectives": [{"name": "miou", "direction": "maximize"}],
        "dataset": {"name": "camvid", "num_classes": 11, "resolution": [192, 256]},
        "latency": {"device": "cpu", "num_threads": 1, "resolution": [192, 256]},
        "baselines": baselines,
        "hardware": {"cpu": "A_CPU & co"},
    }
    (folder / "metadata.json").write_text(json.dumps(metadata))
    rows = []
    for ratio, distiller, miou, continues in (
        (0.4, "none", 0.36, ""),
        (0.5, "none", 0.33, ""),
        (0.5, "none", 0.34, ""),
        (0.5, "dkd", 0.35, ""),
        (0.5, "none", 0.39, 0),
        (0.6, "kd", 0.30, ""),
    ):
        number = len(rows)
        rows.append(
            {
                "trial": number,
                "state": "complete",
                "continues": continues,
                "config/pruned.pruning_ratio": ratio,
                "config/distilled.distiller": distiller,
                "miou": miou,
                "latency_ms": 10.0,
                "num_params": 1e6,
                "stage/dense": "dual-a",
                "stage/sparse": "sparse-c",
                "stage/distilled": f"distilled-{number}",
            }
        )
    pd.DataFrame(rows).to_csv(folder / "trials.csv", index=False)
    return folder


@pytest.fixture
def tables(run):
    return {table.name: table.rows for table in build_tables([load_run(run)])}


def ours(rows, key, value):
    found = rows[(rows[key] == value) & (rows["Numbers"] == "ours")]
    assert len(found) == 1
    return found.iloc[0]


def test_our_networks_stand_below_the_papers(tables):
    rows = tables["paper1_table2"]
    assert rows["Numbers"].tolist().count("paper") == 6
    position = rows.index[(rows["Network"] == "Fast-SCNN")].tolist()
    assert rows["Numbers"][position].tolist() == ["paper", "ours"]
    assert position[1] == position[0] + 1
    assert ours(rows, "Network", "Fast-SCNN")["mIoU (%)"] == pytest.approx(40)
    assert ours(rows, "Network", "DeepLabV3+ (teacher)")["MACs (G)"] == pytest.approx(1.5)


def test_ratios_are_those_without_a_teacher_and_pruned_once(tables):
    rows = tables["paper1_table3"]
    assert ours(rows, "Pruning ratio", 0.0)["mIoU (%)"] == pytest.approx(
        43
    )  # after sparse training
    assert ours(rows, "Pruning ratio", 0.0)["Parameters (M)"] == pytest.approx(2)
    # 0.39 continues another network, 0.35 has a teacher
    assert ours(rows, "Pruning ratio", 0.5)["mIoU (%)"] == pytest.approx(34)
    assert ours(rows, "Pruning ratio", 0.5)["Note"] == "trial 2 of run_1, best of 2"
    assert not ((rows["Pruning ratio"] == 0.6) & (rows["Numbers"] == "ours")).any()
    assert rows["Pruning ratio"].is_monotonic_increasing


def test_distillation_stands_before_and_after(tables):
    rows = tables["paper1_table4"]
    half = ours(rows, "Pruning ratio", 0.5)
    assert (half["mIoU before (%)"], half["mIoU after (%)"]) == pytest.approx((34, 35))
    assert pd.isna(ours(rows, "Pruning ratio", 0.6)["mIoU before (%)"])


def test_speed_and_size_are_as_paper_3_states_them(tables):
    row = ours(tables["paper3_table2"], "Network", "Fast-SCNN")
    assert row["Speed (1/s)"] == pytest.approx(50)
    assert (row["Input size"], row["Note"]) == ("192 × 256", "mIoU on camvid val")


def test_the_test_split_comes_first_where_there_is_one(run):
    (run / "test.csv").write_text("trial,network,miou\n,fast_scnn,0.37\n")
    table = next(t for t in build_tables([load_run(run)]) if t.name == "paper3_table2")
    row = ours(table.rows, "Network", "Fast-SCNN")
    assert (row["mIoU (%)"], row["Note"]) == (pytest.approx(37), "mIoU on camvid test")


def test_a_network_on_two_data_sets_has_two_columns(run, tmp_path):
    other = shutil.copytree(run, tmp_path / "other")
    metadata = json.loads((other / "metadata.json").read_text())
    metadata["dataset"] |= {"name": "cityscapes"}
    (other / "metadata.json").write_text(json.dumps(metadata))
    tables = {table.name: table.rows for table in build_tables([load_run(run), load_run(other)])}
    columns = [name for name in tables["paper3_table4"] if name.startswith("Dual-branch")]
    assert len(columns) == 2
    assert all("camvid" in name or "cityscapes" in name for name in columns)


def test_classes_of_camvid_meet_those_of_cityscapes(tables):
    rows = tables["paper3_table4"]
    assert ours(rows, "Class", "vegetation")["Dual-branch"] == pytest.approx(70)
    assert ours(rows, "Class", "sky")["Fast-SCNN"] == pytest.approx(80)
    assert not ((rows["Class"] == "car") & (rows["Numbers"] == "ours")).any()


def test_curves(run):
    runs = [load_run(run)]
    losses = {curve.name: curve for curve in get_loss_curves(runs)}
    assert losses["Dual-branch"].steps == [1, 600]
    curves = get_miou_curves(runs)
    # Trial 4 continues another one, whose steps are not among its own.
    assert [curve.name for curve in curves] == [f"trial {number}" for number in (0, 1, 2, 3, 5)]
    assert curves[0].steps == [600, 750, 950]
    assert curves[0].values == pytest.approx([44, 43, 36])


def test_everything_is_written(run, capsys):
    assert main([str(run)]) == 0
    folder = run / "papers"
    assert capsys.readouterr().out.strip() == str(folder / "index.html")
    names = {path.name for path in folder.iterdir()}
    for table in ("paper1_table2", "paper1_table3", "paper1_table4", "paper3_table1",
                  "paper3_table2", "paper3_table3", "paper3_table4"):  # fmt: skip
        assert {f"{table}.csv", f"{table}.tex"} <= names
        written = pd.read_csv(folder / f"{table}.csv")
        assert "paper" in written["Numbers"].tolist()
    assert {"paper1_figure6.png", "paper1_figure7.png"} <= names
    html = (folder / "index.html").read_text()
    assert "A_CPU &amp; co" in html
    assert "600 training steps" in html
    assert html.count("None of the runs has numbers") == 1  # the ablation of TBFENet


def test_latex_is_escaped(run):
    table = next(t for t in build_tables([load_run(run)]) if t.name == "paper1_table4")
    latex = render_latex(table)
    assert r"A\_CPU \& co" in latex
    assert r"mIoU before (\%)" in latex
    assert r"\toprule" in latex
    assert "1024 $\\times$ 2048" in latex


def test_several_runs_stand_together(run, make, tmp_path):
    index = write_papers([run, make.run()], tmp_path / "out")
    assert index.parent == tmp_path / "out"
    assert "run_1: camvid" in index.read_text()


def test_no_run_folder_is_named(tmp_path, capsys):
    assert main([str(tmp_path / "none")]) == 1
    assert "no such run folder" in capsys.readouterr().err


def test_one_number_of_a_paper_is_not_stated_twice_differently():
    points = {point.name: point.values for point in PUBLISHED}
    for row in published_tables.DISTILLATION_1:
        values = points[f"Dual-branch, p {row['Pruning ratio']:g}, distilled"]
        assert values["miou"] == pytest.approx(row["mIoU after (%)"] / 100)
        assert values["latency_ms"] == row["Latency (ms)"]
    # NETWORKS.md: the published sizes are 40.96 x (1 - p)^2
    for row in published_tables.RATIOS_1:
        assert row["Parameters (M)"] == pytest.approx(
            40.96 * (1 - row["Pruning ratio"]) ** 2, abs=0.02
        )
    # The average of each column of paper 3's table 4, as printed, where its cells come to it.
    averages = {"SegNet": 57, "ERFNet": 68, "ICNet ResNet-50": 69.5, "DABNet": 70.1}
    for name, average in averages.items():
        values = [float(row[name]) for row in published_tables.CLASSES_3]
        assert sum(values) / len(values) == pytest.approx(average, abs=0.15)


def test_best_is_none_without_trials():
    assert find_best([SimpleNamespace(trials=())], 0.5, taught=True) is None
