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
        ("trial,state,miou,latency_ms,num_params\n0,complete\n", "line 2: not the 5 cells"),
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
    first = load_run(make.run(name="a"))
    second = load_run(make.run(make.rows(8, seed=1), make.metadata, name="b"))
    results = combine_runs([first, second])
    assert len(results.trials) == 40
    assert results.objectives[1].reference == 200.0
    assert results.label(results.trials[0]) == "a/0"
    assert any("different hardware" in note for note in results.notes)


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
