from __future__ import annotations

import csv
import json
from dataclasses import fields, replace
from pathlib import Path

from search.config import StudyConfig
from search.pipelines.records import TrialRecord
from search.run_files.results import describe_git, reference_point, write_metadata, write_trials
from trainables.chain import make_settings
from trainables.pipeline import Baseline, DatasetSummary
from trainables.pipeline_config import LatencyConfig

BASELINES = [
    Baseline("teacher", "deeplabv3plus", 0.7, 4_000_000, 9_000_000, "teacher-1", 200.0, 210.0),
    Baseline("dense", "dual_branch", 0.6, 2_000_000, 5_000_000, "dense-1", 100.0, 110.0),
]


def test_trials_csv_is_one_row_per_trial_in_order(tmp_path: Path) -> None:
    records = [
        TrialRecord(number=1, state="running", settings=make_settings(), started_at="now"),
        TrialRecord(
            number=0,
            state="complete",
            settings=make_settings(pruning_ratio=0.3),
            metrics={
                "miou": 0.5,
                "latency_ms": 9.0,
                "num_params": 7.0,
                "iou/car": 0.4,
                "macs": 3.0,
            },
            stages={"dense": "dense-1"},
            seconds={"dense": 1.5, "sparse": 0.0},
            elapsed_hours=0.25,
        ),
        TrialRecord(number=2, state="failed", settings=make_settings(), reason='a, "b"\nc'),
    ]
    write_trials(tmp_path / "trials.csv", records, ("miou", "latency_ms"))
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == ["0", "1", "2"]
    assert [row["state"] for row in rows] == ["complete", "running", "failed"]
    assert rows[0]["config/pruned.pruning_ratio"] == "0.3"
    assert rows[0]["stage/dense"] == "dense-1"
    assert rows[0]["seconds/dense"] == "1.5"
    assert rows[0]["seconds_total"] == "1.5"
    assert rows[0]["elapsed_hours"] == "0.250000"
    assert rows[1]["miou"] == ""
    assert rows[2]["reason"] == 'a, "b"\nc'
    columns = list(rows[0])
    assert columns[:3] == ["trial", "state", "reason"]
    assert columns.index("macs") < columns.index("iou/car") < columns.index("stage/dense")
    assert [p.name for p in tmp_path.iterdir()] == ["trials.csv"]


def test_trials_csv_has_its_columns_before_any_trial(tmp_path: Path) -> None:
    write_trials(tmp_path / "trials.csv", [], ("miou", "latency_ms"))
    header = (tmp_path / "trials.csv").read_text().strip().split(",")
    assert {"trial", "state", "reason", "miou", "latency_ms"} <= set(header)


def test_metadata_describes_the_run(config: StudyConfig, tmp_path: Path) -> None:
    dataset = DatasetSummary("synthetic", 2, ("road", "car"), (96, 192))
    path = tmp_path / "metadata.json"
    write_metadata(path, config, dataset, BASELINES, device="cpu", created_at="then")
    content = json.loads(path.read_text())
    assert [objective["reference"] for objective in content["objectives"]] == [0, 100, 2_000_000]
    assert content["latency"]["resolution"] == [96, 192]
    assert content["latency"]["device"] == "cpu"
    assert {entry.name for entry in fields(LatencyConfig)} < set(content["latency"])
    assert content["baselines"][0]["model"] == "deeplabv3plus"
    assert content["dataset"]["classes"] == ["road", "car"]
    assert content["versions"]["torch"]
    assert reference_point(config, BASELINES)["miou"] == 0
    host = replace(config.pipeline.latency, host="pi@raspberry")
    config = replace(config, pipeline=replace(config.pipeline, latency=host))
    write_metadata(path, config, dataset, BASELINES, device="cuda", created_at="then", hardware={})
    assert json.loads(path.read_text())["latency"]["device"] == "cpu"


def test_outside_a_checkout_there_is_no_commit(tmp_path: Path) -> None:
    assert describe_git(tmp_path) == {}


def test_a_metric_that_only_some_studies_measure_is_kept_of_baselines(tmp_path: Path) -> None:
    baseline = BASELINES[1]._replace(more={"latency_p99_ms": 130.0})
    entry = json.loads(json.dumps(baseline.to_entry()))
    assert entry["latency_p99_ms"] == 130.0
    assert "more" not in entry
    assert Baseline.restore(entry) == baseline
