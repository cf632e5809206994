"""Speed-ups and confirmation: worked out from a run's files, shown in its report."""

from __future__ import annotations

import csv

import pytest

from analysis.front_measures import derive_measures
from analysis.front_table import get_front_table_info
from analysis.report import write_report
from analysis.results import ResultsError, combine_runs, load_run
from analysis.summary import summarize

HEADER = "trial,seed,state,reason,miou,stage/distilled,seconds/distilled\n"


@pytest.fixture
def front(make):
    """Three members, the last without MACs; dense: 143.2 ms and 4 G."""
    rows = []
    for number, (miou, latency, macs) in enumerate(
        [(0.60, 71.6, 1e9), (0.55, 35.8, 5e8), (0.50, 14.32, "")]
    ):
        row = make.rows(1)[0] | {"trial": number, "state": "complete", "miou": miou}
        rows.append(row | {"latency_ms": latency, "num_params": 1e6, "macs": macs})
    make.metadata["baselines"][1]["macs"] = 4e9

    def load(confirmation=None, name="run"):
        folder = make.run(rows, make.metadata, name=name)
        if confirmation is not None:
            (folder / "confirmation.csv").write_text(HEADER + confirmation)
        return folder

    return load


def derive(*folders):
    results = combine_runs([load_run(folder) for folder in folders])
    summary = summarize(results)
    return {results.label(t): m for t, m in zip(summary.front, derive_measures(results,
            summary.front), strict=True)}  # fmt: skip


def test_speed_ups_are_against_the_dense_network(front):
    derived = derive(front())
    assert derived["0"] == pytest.approx(
        {"speedup": 2.0, "speedup_theoretical": 4.0, "speedup_realised_share": 0.5}
    )
    assert derived["1"] == pytest.approx(
        {"speedup": 4.0, "speedup_theoretical": 8.0, "speedup_realised_share": 0.5}
    )
    assert derived["2"] == pytest.approx({"speedup": 10.0})


def test_without_a_dense_network_there_is_no_speed_up(front, make):
    make.metadata["baselines"] = make.metadata["baselines"][:1]
    assert derive(front()) == {"0": {}, "1": {}, "2": {}}


def test_retrainings_are_summed_up(front):
    derived = derive(
        front(
            "0,1,complete,,0.50,a,1\n0,2,complete,,0.52,b,1\n"
            "1,1,complete,,0.54,c,1\n1,2,complete,,0.56,d,1\n1,3,failed,the loss is nan,,,0\n"
            "9,1,complete,,0.99,e,1\n9,2,complete,,0.99,f,1\n"  # not on the front any more
        )
    )
    first, second = derived["0"], derived["1"]
    assert first["retrained_miou_mean"] == pytest.approx(0.51)
    assert first["retrained_miou_std"] == pytest.approx(0.02 / 2**0.5)
    assert (first["num_retrainings"], second["num_retrainings"]) == (2, 2)
    # The slower one has turned out worse: see test_noisy_front for the number.
    assert first["probability_non_dominated"] == pytest.approx(1 - 0.9472, abs=0.02)
    assert second["probability_non_dominated"] == 1.0
    assert "num_retrainings" not in derived["2"]


def test_a_single_retraining_has_no_deviation(front):
    derived = derive(front("0,1,complete,,0.5,a,1\n"))
    more = {name for name in derived["0"] if not name.startswith("speedup")}
    assert more == {"num_retrainings", "retrained_miou_mean"}


def test_runs_keep_their_retrainings_apart(front):
    folders = [
        front("0,1,complete,,0.50,a,1\n0,2,complete,,0.52,b,1\n", name="a"),
        front("0,1,complete,,0.40,a,1\n0,2,complete,,0.42,b,1\n", name="b"),
    ]
    derived = derive(*folders)
    means = {name: entry.get("retrained_miou_mean") for name, entry in derived.items()}
    assert means["a/0"] == pytest.approx(0.51)
    assert means["b/0"] == pytest.approx(0.41)
    total = sum(derived[name]["probability_non_dominated"] for name in ("a/0", "b/0"))
    assert total == pytest.approx(1.0)  # their costs are equal


def test_the_report_shows_them(front):
    folder = front("0,1,complete,,0.50,a,1\n0,2,complete,,0.52,b,1\n")
    results = combine_runs([load_run(folder)])
    info = get_front_table_info(results, summarize(results), folder / "report")
    shown = dict(zip(info.columns, (cell.text for cell in info.rows[0]), strict=True))
    assert shown["Retrained: mean mIoU (%)"] == "51.00"
    assert shown["Deviation (points)"] == "1.41"
    assert shown["Retrainings"] == "2"
    assert shown["P(non-dominated)"] == "1.00"
    assert shown["Speed-up (×)"] == "2.00"
    assert shown["Speed-up by MACs (×)"] == "4.00"
    assert shown["Realised / by MACs (%)"] == "50"
    last = dict(zip(info.columns, (cell.text for cell in info.rows[2]), strict=True))
    assert (last["Retrainings"], last["Speed-up by MACs (×)"]) == ("–", "–")
    html = write_report([folder]).read_text(encoding="utf-8")
    assert "own mIoU is left out, because the front was selected by it" in html
    with (folder / "report" / "front.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert float(row["retrained_miou_mean"]) == pytest.approx(0.51)
    assert float(row["speedup_realised_share"]) == pytest.approx(0.5)


def test_an_unconfirmed_run_has_no_such_columns(front):
    folder = front()
    html = write_report([folder]).read_text(encoding="utf-8")
    assert "etrain" not in html.partition("<body>")[2].partition("<script")[0]
    assert "retrained" not in (folder / "report" / "front.csv").read_text()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,1,complete,,0.5,a,1\n", r"line 2: column 'trial' is 'x', not a finite number"),
        ("0,1,complete,,,a,1\n", r"line 2: column 'miou' is '', not a finite number"),
        ("0,1,complete,,nan,a,1\n", r"line 2: column 'miou' is 'nan', not a finite number"),
        ("0,1,complete,,0.5,a,1\n0,1,complete,,0.6,a,1\n", r"line 3: trial 0 has seed 1 twice"),
    ],
)
def test_a_bad_table_of_retrainings_is_named(front, text, message):
    with pytest.raises(ResultsError, match=message):
        load_run(front(text))


def test_a_table_without_a_column_is_named(front):
    folder = front()
    (folder / "confirmation.csv").write_text("trial,seed,state\n")
    with pytest.raises(ResultsError, match=r"confirmation\.csv: column 'miou' is missing"):
        load_run(folder)
