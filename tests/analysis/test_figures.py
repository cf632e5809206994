from __future__ import annotations

import pytest

from analysis.choosing import describe_choice
from analysis.figures import front_2d, front_3d, hypervolume_history, importance
from analysis.figures import parallel_coordinates as parallel
from analysis.figures.theme import FigureNotMadeError
from analysis.front_table import get_front_table_info, write_front_csv
from analysis.results import combine_runs, load_run
from analysis.summary import summarize


@pytest.fixture
def small(make):
    """Four complete trials; 0 and 1 attain (miou, latency), 2 is on the front by its size."""
    rows = make.rows(5, seed=3)[:4]
    shared = {"state": "complete", "reason": ""}
    values = [(0.64, 60.0, 1.0e6), (0.60, 50.0, 0.9e6), (0.58, 55.0, 0.3e6), (0.57, 99.0, 2.0e6)]
    for row, (miou, latency, params) in zip(rows, values, strict=True):
        row |= shared | {"miou": miou, "latency_ms": latency, "num_params": params}
    results = combine_runs([load_run(make.run(rows))])
    return results, summarize(results)


@pytest.fixture
def large(make):
    results = combine_runs([load_run(make.run(make.rows(40)))])
    return results, summarize(results)


def test_summary(small):
    _, summary = small
    assert [trial.number for trial in summary.front] == [0, 1, 2]
    assert [trial.number for trial in summary.dominated] == [3]
    assert summary.reference_point == (0.0, 143.2, 2.3e6)
    assert summary.ideal_point == (1.0, 0.0, 0.0)
    assert summary.sentence == (
        "3 of 4 finished networks are on the front. Within 2 points of mIoU of its dense network, "
        "trial 0 is 2.4× faster and 2.3× smaller (1.2 points of mIoU below dense)."
    )


def test_summary_compares_with_the_student_of_the_trial(make):
    make.metadata["baselines"][1]["stage"] = "dense-other"
    own = {"miou": 0.61, "latency_ms": 100.0, "num_params": 1e6, "stage": "dense-0a1b"}
    make.metadata["baselines"].append({"name": "small", "model": "fast_scnn", **own})
    rows = make.rows(1, seed=3)
    rows[0] |= {"state": "complete", "miou": 0.6, "latency_ms": 50.0, "num_params": 5e5}
    summary = summarize(combine_runs([load_run(make.run(rows, make.metadata))]))
    assert summary.sentence.endswith(
        "trial 0 is 2.0× faster and 2.0× smaller (1.0 points of mIoU below dense)."
    )


@pytest.mark.parametrize("accuracy", ["miou", "consistency"])
def test_summary_hypervolume_by_hand(make, accuracy):
    make.metadata["objectives"][0]["name"] = accuracy
    rows = make.rows(2, seed=3)[:1]
    rows[0] |= {"state": "complete", accuracy: 0.5, "latency_ms": 71.6, "num_params": 1.15e6}
    folder = make.run(rows, make.metadata, columns=list(rows[0]))
    summary = summarize(combine_runs([load_run(folder)]))
    assert summary.hypervolume == pytest.approx(0.5**3)
    assert ("None stays within 2 points" in summary.sentence) == (accuracy == "miou")


def test_front_2d_parts(small):
    info = front_2d._get_front_2d_info(*small, "latency_ms", "miou")
    assert (info.x_title, info.y_title) == ("Latency (ms)", "mIoU (%)")
    assert info.line_shape == "hv"
    assert not info.x_log
    assert info.front.x == [50.0, 60.0]
    assert info.front.y == pytest.approx([60.0, 64.0])
    assert info.other_front.x == [55.0]
    assert info.dominated.x == [99.0]
    assert [marks.name for marks in info.baselines] == ["Teacher", "Dense"]
    assert "sparsity_lambda" in info.front.texts[0]


def test_front_2d_line_turns_the_other_way_for_a_maximised_axis(small):
    info = front_2d._get_front_2d_info(*small, "miou", "latency_ms")
    assert info.line_shape == "vh"


def test_published_points_are_off_for_other_data_and_scales(small, make):
    assert not front_2d._get_front_2d_info(*small, "latency_ms", "miou").published.visible
    make.metadata["dataset"]["name"] = "cityscapes"
    rows = make.rows(2)
    rows[0] |= {"miou": 0.68, "latency_ms": 25.0}
    rows[1] |= {"state": "complete", "miou": 0.77, "latency_ms": 140.0, "num_params": 1e6}
    results = combine_runs([load_run(make.run(rows, make.metadata, name="city"))])
    summary = summarize(results)
    by_latency = front_2d._get_front_2d_info(results, summary, "latency_ms", "miou").published
    assert by_latency.visible
    assert len(by_latency.x) == 9
    assert not front_2d._get_front_2d_info(results, summary, "num_params", "miou").published.visible


def test_published_points_never_count(small):
    info = front_2d._get_front_2d_info(*small, "latency_ms", "miou")
    assert not set(info.published.x) & set(info.front.x)


def test_front_3d_parts(small):
    info = front_3d._get_front_3d_info(*small)
    assert info.titles == ("Latency (ms)", "Parameters (M)", "mIoU (%)")
    assert info.front.points[0] == pytest.approx((60.0, 1.0, 64.0))
    assert len(info.dominated.points) == 1
    assert info.logs == (False, True, False)


@pytest.mark.parametrize("over", ["trials", "hours"])
def test_hypervolume_never_falls_and_ends_at_the_summary(large, over):
    results, summary = large
    info = hypervolume_history._get_hypervolume_history_info(results, summary, over)
    (history,) = info.histories
    assert history.x == sorted(history.x)
    assert history.hypervolume == sorted(history.hypervolume)
    assert history.hypervolume[-1] == pytest.approx(summary.hypervolume)
    assert len(history.x) == sum(trial.state != "running" for trial in results.trials)


def test_parallel_coordinates(large):
    results, summary = large
    info = parallel._get_parallel_coordinates_info(results, summary)
    labels = [item.label for item in info.dimensions]
    assert labels[0] == "sparsity_lambda"
    assert labels[-3:] == ["mIoU (%)", "Latency (ms)", "Parameters (M)"]
    assert "eta" not in labels
    assert info.dimensions[0].values[0] < 0  # log10
    assert info.dimensions[labels.index("scope")].tick_texts == ["<b>global</b>", "local"]
    assert all(len(item.values) == len(info.colors) for item in info.dimensions)


@pytest.mark.parametrize(
    ("column", "values", "texts"),
    [
        ([None, 2.0, 6.0], [1.0, 2.0, 6.0], ["–", "2.00", "3.00", "4.00", "5.00", "6.00"]),
        ([1.0, None, 1e4], [0.0, -1.0, 4.0], ["–", "1.00", "10.0", "100", "1,000", "10,000"]),
        ([3.0, None], [3.0, 2.0], ["–", "3.00"]),
        (["kd", None, 4.0], [1.0, 2.0, 0.0], ["4", "kd", "–"]),
    ],
)
def test_trials_without_a_setting_stand_apart_from_its_numbers(column, values, texts):
    dimension = parallel._get_dimension("T", column)
    assert dimension.values == pytest.approx(values)
    assert dimension.tick_texts == texts


def test_importance_finds_what_decides(large):
    info = importance._get_importance_info(large[0])
    assert [panel.label for panel in info.panels] == ["mIoU", "Latency", "Parameters"]
    assert info.panels[2].settings[0] == "pruning_ratio"
    for panel in info.panels:
        assert sum(panel.importances) == pytest.approx(1.0)


def test_importance_says_when_trials_are_too_few(small):
    with pytest.raises(FigureNotMadeError, match="4 measured networks are too few"):
        importance._get_importance_info(small[0])


def test_importance_handles_switches_and_missing_settings(make):
    rows = make.rows(40)
    for row in rows:
        row["config/alpha"] = row["trial"] % 2 == 0
    rows[0]["config/beta"] = ""
    results = combine_runs([load_run(make.run(rows))])
    settings = importance._get_importance_info(results).panels[0].settings
    assert "alpha" in settings
    assert "beta" not in settings


def test_front_table(small, tmp_path):
    results, summary = small
    info = get_front_table_info(results, summary, results.runs[0].folder / "report")
    objectives = ["mIoU (%)", "Latency (ms)", "Parameters (M)"]
    assert info.columns[:6] == ["Trial", *objectives, "Speed-up (×)", "Checkpoint"]
    assert [row[0].text for row in info.rows] == ["0", "1", "2"]
    assert [row[1].text for row in info.rows] == ["64.0", "60.0", "58.0"]
    assert info.rows[0][5].link == "../stages/distilled-0000/checkpoint.safetensors"
    assert info.rows[1][5].text.endswith("(not here)")
    assert "eta 1" in info.constants


def test_front_table_of_trials_that_lack_a_setting(make):
    rows = make.rows(5, seed=3)[:2]
    for row, cost in zip(rows, (60.0, 50.0), strict=True):
        row |= {"state": "complete", "miou": cost / 100, "latency_ms": cost, "num_params": 1e6}
    rows[0]["config/beta"] = ""
    results = combine_runs([load_run(make.run(rows))])
    info = get_front_table_info(results, summarize(results), results.runs[0].folder / "report")
    absent, known = (row[info.columns.index("beta")] for row in info.rows)
    assert absent.text == "–"
    assert float(absent.order) < known.order  # the page sorts a column of numbers as numbers


def test_the_answer_of_a_trial_that_ends_with_files_is_their_folder(make):
    rows = make.rows(1, seed=3)
    rows[0] |= {"state": "complete", "miou": 0.6, "latency_ms": 50.0, "num_params": 1e6}
    rows[0] |= {"network": "distilled-0000", "stage/quantised": "quantised-1"}
    folder = make.run(rows, columns=list(rows[0]))
    (folder / "stages" / "quantised-1").mkdir(parents=True)
    (folder / "stages" / "quantised-1" / "model.json").touch()
    results = combine_runs([load_run(folder)])
    summary = summarize(results)
    info = get_front_table_info(results, summary, folder / "report")
    link = info.rows[0][info.columns.index("Checkpoint")].link
    assert link == "../stages/quantised-1/model.json"
    write_front_csv(folder / "front.csv", results, summary)
    assert (folder / "front.csv").read_text().endswith(",quantised-1\n")
    assert f"{folder}/stages/quantised-1\n" in describe_choice(results, {"latency_ms": 60.0})
