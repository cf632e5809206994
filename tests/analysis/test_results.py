from __future__ import annotations

import pytest

from analysis.results import ResultsError, combine_runs, load_run


def test_load_run_reads_everything(make):
    run = load_run(make.run())
    assert run.recipe == "camvid"
    assert [o.name for o in run.objectives] == ["miou", "latency_ms", "num_params"]
    assert len(run.trials) == 32
    first = run.trials[0]
    assert first.settings["eta"] == 1.0
    assert first.settings["scope"] == "local"
    assert first.stages["distilled"] == "distilled-0000"
    assert set(first.measures) >= {"miou", "latency_ms", "macs", "iou/<script>"}
    assert run.trials[5].state == "failed"
    assert "miou" not in run.trials[5].measures
    assert [b.name for b in run.baselines] == ["teacher", "dense"]


def test_measured_are_the_complete_trials(make):
    results = combine_runs([load_run(make.run())])
    assert len(results.measured) == 26
    assert "eta" not in results.varied_settings


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"state": "done"}, r"line 2: column 'state' is 'done'"),
        ({"miou": "good"}, r"line 2: column 'miou' is 'good'"),
        ({"latency_ms": "inf"}, r"line 2: column 'latency_ms' is 'inf'"),
        ({"trial": "x"}, r"line 2: column 'trial' is 'x'"),
        ({"trial": ""}, r"line 2: column 'trial' is empty"),
        ({"elapsed_hours": "soon"}, r"column 'elapsed_hours' is 'soon'"),
    ],
)
def test_bad_cell_is_named(make, change, message):
    rows = make.rows(3)
    rows[0] |= change
    with pytest.raises(ResultsError, match=message):
        load_run(make.run(rows))


def test_missing_folder_and_files(tmp_path, make):
    with pytest.raises(ResultsError, match="no such run folder"):
        load_run(tmp_path / "nothing")
    folder = make.run()
    (folder / "trials.csv").unlink()
    with pytest.raises(ResultsError, match=r"trials\.csv: missing"):
        load_run(folder)
    (folder / "metadata.json").unlink()
    with pytest.raises(ResultsError, match=r"metadata\.json: missing"):
        load_run(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "JSON object"),
        ("{}", "'objectives' must be a list"),
        ('{"objectives": [{"name": "miou"}]}', "bad entry .*direction"),
        ('{"objectives": [{"name": "miou", "direction": "up"}]}', "got 'up'"),
        ('{"objectives": [{"name": "miou", "direction": "maximize"}], "dataset": 3}', "'dataset'"),
        (
            '{"objectives": [{"name": "miou", "direction": "maximize"}], "baselines": [{}]}',
            "without a name",
        ),
    ],
)
def test_broken_metadata_is_named(make, text, message):
    folder = make.run()
    (folder / "metadata.json").write_text(text)
    with pytest.raises(ResultsError, match=rf"(?s)metadata\.json.*{message}"):
        load_run(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("state,miou\ncomplete,0.5\n", "column 'trial' is missing"),
        ("trial,state,miou,latency_ms,num_params\n0,complete\n", "line 2: .* not have the 5 cells"),
        ("trial,state,miou\n0,complete,0.5\n1,failed,,9\n", "not a table of rows of equal length"),
        ("trial,state\n0,complete\n", "no column for any objective"),
    ],
)
def test_broken_table_is_named(make, text, message):
    folder = make.run()
    (folder / "trials.csv").write_text(text)
    with pytest.raises(ResultsError, match=rf"trials\.csv.*{message}"):
        load_run(folder)


def test_missing_objective_is_left_out_with_a_note(make):
    columns = [name for name in make.rows(1)[0] if name != "latency_ms"]
    results = combine_runs([load_run(make.run(columns=columns))])
    assert [o.name for o in results.objectives] == ["miou", "num_params"]
    assert any("latency_ms" in note for note in results.notes)


def test_complete_trial_without_a_value_is_left_out_with_a_note(make):
    rows = make.rows(6)
    rows[1]["miou"] = ""
    results = combine_runs([load_run(make.run(rows))])
    assert 1 not in [trial.number for trial in results.measured]
    assert any("Trial 1 " in note for note in results.notes)


def test_runs_of_equal_objectives_are_combined(make):
    make.metadata["objectives"][1]["reference"] = 200.0
    make.metadata["hardware"] = {"cpu": "another"}
    make.metadata["baselines"][1]["stage"] = "dense-of-b"
    first = load_run(make.run(name="a"))
    second = load_run(make.run(make.rows(8, seed=1), make.metadata, name="b"))
    results = combine_runs([first, second])
    assert len(results.trials) == 40
    assert results.objectives[1].reference == 200.0
    assert results.label(results.trials[0]) == "a/0"
    assert any("different hardware" in note for note in results.notes)
    assert [baseline.name for baseline in results.baselines] == ["teacher", "dense", "dense"]


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("objectives", "", None),
        ("dataset", "resolution", [720, 960]),
        ("dataset", "classes", ["road", "car"]),
        ("latency", "resolution", [720, 960]),
        ("latency", "fold_batchnorm", False),
        ("latency", "num_threads", 4),
        ("latency", "a setting of a later version", 1),
    ],
)
def test_runs_that_do_not_compare_are_refused(make, key, name, value):
    make.metadata["latency"]["fold_batchnorm"] = True
    first = load_run(make.run(None, make.metadata, name="a"))
    if key == "objectives":
        make.metadata["objectives"].pop()
    else:
        make.metadata[key][name] = value
    second = load_run(make.run(None, make.metadata, name="b"))
    for runs in ([first, second], [second, first]):
        with pytest.raises(ResultsError, match=f"{key}.*{name} differs") as error:
            combine_runs(runs)
        assert str(first.folder) in str(error.value)
        assert str(second.folder) in str(error.value)


def test_runs_that_measured_latency_less_exactly_still_compare(make):
    make.metadata["latency"] |= {"max_seconds": 20.0, "relative_margin": 0.02}
    first = load_run(make.run(None, make.metadata, name="a"))
    make.metadata["latency"] |= {"max_seconds": 2.0, "relative_margin": 0.1}
    combine_runs([first, load_run(make.run(None, make.metadata, name="b"))])


def test_settings_nest_by_stage_and_show_their_last_part(make):
    rows = make.rows(6)
    for row in rows:
        for name in ("sparsity_lambda", "pruning_ratio", "temperature", "alpha", "beta", "eta"):
            row.pop(f"config/{name}")
        row["config/pruned.pruning_ratio"] = 0.1 * row["trial"]
        row["config/distilled.distiller"] = "kd" if row["trial"] % 2 else "none"
        row["config/distilled.kd.temperature"] = 4.0 if row["trial"] % 2 else ""
        row["config/sparse.lr"] = 1e-3
        row["config/distilled.lr"] = 1e-4
    results = combine_runs([load_run(make.run(rows, columns=list(rows[0])))])
    labels = results.setting_labels
    assert labels["pruned.pruning_ratio"] == "pruning_ratio"
    assert labels["distilled.kd.temperature"] == "temperature"
    assert labels["sparse.lr"] == "sparse.lr"  # two stages have one
    assert "distilled.kd.temperature" not in results.trials[0].settings
    assert results.trials[1].settings["distilled.kd.temperature"] == 4.0


def test_a_chain_is_read(make):
    rows = make.rows(4)
    for row in rows:
        row["continues"] = row["trial"] - 1 if row["trial"] else ""
    run = load_run(make.run(rows, columns=list(rows[0])))
    assert [trial.continues for trial in run.trials] == [None, 0, 1, 2]


def test_the_network_is_the_one_that_the_run_names(make):
    rows = make.rows(4)
    for row in rows:
        row |= {"network": "distilled-2", "stopped_by": "", "stage/quantised": "quantised-1"}
    run = load_run(make.run(rows, columns=list(rows[0])))
    assert run.trials[0].network == "distilled-2"
    rows[1]["network"] = "../../etc"
    with pytest.raises(ResultsError, match=r"line 3: column 'network' is '\.\./\.\./etc'"):
        load_run(make.run(rows, name="other", columns=list(rows[0])))


def test_the_latency_stage_makes_no_network(make):
    rows = make.rows(4)
    rows[0]["stage/latency"] = "latency-1"
    run = load_run(make.run(rows, columns=list(rows[0])))
    assert run.trials[0].network == "distilled-0000"


def test_warnings_are_texts(make):
    make.metadata["warnings"] = ["class 'train' never occurs in val"]
    folder = make.run(None, make.metadata)
    assert load_run(folder).warnings == ("class 'train' never occurs in val",)
    make.metadata["warnings"] = "class"
    with pytest.raises(ResultsError, match=r"metadata\.json: 'warnings' must be a list"):
        load_run(make.run(None, make.metadata, name="other"))


def test_scores_of_the_test_split_are_read(make):
    folder = make.run()
    (folder / "test.csv").write_text(
        "trial,network,stage,miou,iou/sky,iou/car\n,dense,dense-a,0.5,0.9,\n7,trial-7,d-7,0.4,,0.1\n"
    )
    scores = load_run(folder).held_out
    assert scores["dense"].miou == 0.5
    assert scores["dense"].iou == {"sky": 0.9}
    assert scores["trial-7"].iou == {"car": 0.1}
    (folder / "test.csv").write_text("trial,network,miou\n,dense,good\n")
    with pytest.raises(ResultsError, match=r"test\.csv, line 2: column 'miou' is 'good'"):
        load_run(folder)


def test_runs_of_one_name_are_refused(make):
    first, second = (load_run(make.run(name=f"{folder}/camvid-1")) for folder in "ab")
    with pytest.raises(ResultsError, match=f"{first.folder} is given twice"):
        combine_runs([first, first])
    with pytest.raises(
        ResultsError, match=f"{first.folder} and {second.folder} have the same name"
    ):
        combine_runs([first, second])
