"""What a reader asks: which network for a budget, who pays, what came from what, what failed."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest

from analysis.answer_sections import render_lineage
from analysis.choosing import choose_trial, describe_choice, find_candidates, get_chooser_data
from analysis.class_iou import get_class_iou_info
from analysis.figures import lineage as lineage_figure
from analysis.heat_map import render_heat_map
from analysis.lineage import build_tree, get_ancestors
from analysis.problems import get_problems_info, list_labels
from analysis.report import main, write_report
from analysis.results import ResultsError, combine_runs, load_run
from analysis.run_description import describe_facts
from analysis.summary import summarize

NETWORKS = [(0.64, 60.0, 1.0e6), (0.60, 50.0, 0.9e6), (0.58, 55.0, 0.3e6), (0.57, 99.0, 2.0e6)]


@pytest.fixture
def rows(make):
    rows = make.rows(5, seed=3)[:4]
    for row, (miou, latency, params) in zip(rows, NETWORKS, strict=True):
        row |= {"state": "complete", "reason": "", "continues": ""}
        row |= {"miou": miou, "latency_ms": latency, "num_params": params}
    return rows


@pytest.fixture
def load(make, rows):
    def load(**changes):
        folder = make.run(rows, make.metadata | changes, columns=list(rows[0]))
        results = combine_runs([load_run(folder)])
        return results, summarize(results)

    return load


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ({}, 0),
        ({"latency_ms": 60.0}, 0),
        ({"latency_ms": 59.9}, 1),
        ({"num_params": 0.5e6}, 2),
        ({"latency_ms": 54.0, "num_params": 1e6}, 1),
        ({"latency_ms": 54.0, "num_params": 0.5e6}, None),
    ],
)
def test_the_most_accurate_within_the_budget(load, limits, expected):
    candidates = find_candidates(load()[0])
    best = choose_trial(candidates, limits)
    assert (best.number if best else None) == expected


def test_of_equal_networks_the_faster_is_chosen(load, rows):
    rows[1]["miou"] = rows[0]["miou"]
    assert choose_trial(find_candidates(load()[0]), {}).number == 1


def test_sliders_offer_what_the_function_chooses(load):
    results, _ = load()
    data = get_chooser_data(results)
    assert [budget["name"] for budget in data["budgets"]] == ["latency_ms", "num_params"]
    for limit in (49.0, 50.0, 57.0, 70.0):
        first = next((n for n in data["networks"] if n["values"][0] <= limit), None)
        best = choose_trial(find_candidates(results), {"latency_ms": limit})
        assert (first and first["label"]) == (best and str(best.number))
    assert data["networks"][0]["command"].endswith("--trial 0")


def test_command_answers_a_budget(make, rows, capsys):
    folder = make.run(rows, columns=list(rows[0]))
    assert main([str(folder), "--max-latency-ms", "52", "--max-num-params", "1e6"]) == 0
    printed = capsys.readouterr().out
    assert "trial 1 (latency at most 52.0 ms and parameters at most 1.00 M)" in printed
    assert f"python -m models.export {folder.resolve()} --trial 1" in printed
    assert "distilled-0001" in printed
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    ("model", "end"),
    [
        ("/home/me/my net.py:Net", "--trial 1 --factory '/home/me/my net.py:Net'"),
        ("my_package.nets:make", "--trial 1 --factory my_package.nets:make"),
        ("smp:Unet", "--trial 1"),
        ("torchvision:fcn_resnet50", "--trial 1"),
    ],
)
def test_the_export_of_a_network_of_the_users_names_its_code(make, rows, capsys, model, end):
    make.metadata["baselines"][1]["model"] = model
    folder = make.run(rows, make.metadata, columns=list(rows[0]))
    assert main([str(folder), "--max-latency-ms", "52", "--max-num-params", "1e6"]) == 0
    assert f"{folder.resolve()} {end}\n" in capsys.readouterr().out


def test_command_says_what_the_least_is(make, rows, capsys):
    folder = make.run(rows, columns=list(rows[0]))
    assert main([str(folder), "--max-latency-ms", "5"]) == 3
    printed = capsys.readouterr().out
    assert "None of the 4 measured networks has latency at most 5.00 ms." in printed
    assert "The smallest latency found is 50.0 ms." in printed


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "fast"])
def test_command_refuses_a_budget_that_is_none(make, value, capsys):
    with pytest.raises(SystemExit):
        main([str(make.run()), "--max-latency-ms", value])
    assert value in capsys.readouterr().err


def test_choice_names_the_test_split(load, rows, make):
    results, _ = load()
    (results.runs[0].folder / "test.csv").write_text("trial,network,miou\n0,trial-0,0.625\n")
    results = combine_runs([load_run(results.runs[0].folder)])
    assert "mIoU on test: 62.5 %" in describe_choice(results, {"latency_ms": 100.0})


def test_class_iou_is_against_the_uncompressed_network(load, rows, make):
    for row in rows:
        row.pop("iou/<script>")
        row |= {"iou/sky": 0.8, "iou/car": 0.1 * row["trial"], "iou/bus": ""}
    make.metadata["baselines"][1]["stage"] = "dense-0a1b"
    make.metadata["dataset"]["classes"] = ["car", "sky", "bus"]
    folder = make.run(rows, make.metadata, columns=list(rows[0]))
    (folder / "stages" / "dense-0a1b").mkdir()
    found = {"result": {"iou": {"sky": 0.9, "car": 0.05, "bus": None}}}
    (folder / "stages" / "dense-0a1b" / "result.json").write_text(json.dumps(found))
    results = combine_runs([load_run(folder)])
    info = get_class_iou_info(results, summarize(results))
    assert info.classes == ["car", "sky"]
    assert info.networks == ["Trial 0", "Trial 1", "Trial 2"]
    assert info.get_change(1, "car") == pytest.approx(0.05)
    assert info.get_change(1, "sky") == pytest.approx(-0.1)
    html = render_heat_map(info)
    assert "+5.0" in html
    assert "-10.0" in html


def test_class_iou_without_an_uncompressed_network(load):
    results, summary = load()
    info = get_class_iou_info(results, summary)
    assert info.references == {}
    assert "50.0" in render_heat_map(info)
    assert "<script>" not in render_heat_map(info)


def test_each_run_is_compared_with_its_own_uncompressed_network(make, rows):
    for row in rows:
        row["iou/sky"] = 0.8
    make.metadata["baselines"][1]["stage"] = "dense-0a1b"
    runs = []
    for name, iou in (("a", 0.9), ("b", 0.5)):
        make.metadata["baselines"][1]["miou"] = iou
        folder = make.run(rows, make.metadata, name=name, columns=list(rows[0]))
        (folder / "stages" / "dense-0a1b").mkdir()
        result = {"result": {"iou": {"sky": iou}}}
        (folder / "stages" / "dense-0a1b" / "result.json").write_text(json.dumps(result))
        runs.append(load_run(folder))
    results = combine_runs(runs)
    summary = summarize(results)
    info = get_class_iou_info(results, summary)
    assert set(info.references) == {"a/dense", "b/dense"}
    figure = lineage_figure._get_lineage_info(results, summary, "latency_ms", "miou")
    for position, trial in enumerate(summary.front):
        iou = 0.9 if trial.run == "a" else 0.5
        assert info.get_change(position, "sky") == pytest.approx(0.8 - iou)
        assert figure.starts[position][0][1] == pytest.approx(100 * iou)


@pytest.mark.parametrize(
    ("objectives", "axes"),
    [
        ((1, 0), ["Latency (ms)", "mIoU (%)"]),
        ((1, 2), ["Parameters (M)", "Latency (ms)"]),
    ],
)
def test_a_chain_is_drawn_over_an_accuracy_and_a_cost(make, rows, objectives, axes):
    make.metadata["objectives"] = [make.metadata["objectives"][i] for i in objectives]
    results = combine_runs([load_run(make.run(rows, make.metadata, columns=list(rows[0])))])
    html = render_lineage(results, summarize(results))
    figure = json.loads(html.partition('id="lineage">')[2].partition("</script>")[0])
    titles = [figure["layout"][name]["title"]["text"] for name in ("xaxis", "yaxis")]
    assert titles == axes


def test_a_chain_is_drawn_from_network_to_network(load, rows):
    rows[1]["continues"] = 0
    rows[2]["continues"] = 1
    results, summary = load()
    info = lineage_figure._get_lineage_info(results, summary, "latency_ms", "miou")
    assert [point for point, _ in info.roots] == [pytest.approx((143.2, 65.2))]
    assert info.starts == [(pytest.approx((143.2, 65.2)), pytest.approx((60.0, 64.0)))]
    assert info.continuations == [
        (pytest.approx((60.0, 64.0)), pytest.approx((50.0, 60.0))),
        (pytest.approx((50.0, 60.0)), pytest.approx((55.0, 58.0))),
    ]


def test_a_dominated_ancestor_is_shown(load, rows):
    rows[0]["continues"] = 3
    results, summary = load()
    info = lineage_figure._get_lineage_info(results, summary, "latency_ms", "miou")
    assert info.on_front.count(False) == 1
    (root,) = build_tree(results, summary.front)
    labels = {node.label: [child.label for child in node.children] for node in walk(root)}
    assert labels["Trial 3"] == ["Trial 0"]


def walk(node):
    yield node
    for child in node.children:
        yield from walk(child)


def test_the_tree_shows_stages_that_are_shared(load, rows):
    for row, sparse in zip(rows, ("sparse-a", "sparse-a", "sparse-b", "sparse-b"), strict=True):
        row["stage/sparse"] = sparse
    results, summary = load()
    (root,) = build_tree(results, summary.front)
    assert root.label == "dense (dense-0a1b)"
    # sparse-b has one member of the front alone: nothing is shared
    assert [child.label for child in root.children] == ["sparse (sparse-a)", "Trial 2"]
    assert [child.label for child in root.children[0].children] == ["Trial 0", "Trial 1"]


@pytest.mark.parametrize("first", ["1", "0", "77"])
def test_circles_and_unknown_numbers_end_a_chain(load, rows, first):
    rows[0]["continues"] = first
    rows[1]["continues"] = 0
    results, summary = load()
    trials = {trial.number: trial for trial in results.trials}
    assert len(get_ancestors(results, trials[1])) == 1
    build_tree(results, summary.front)
    lineage_figure._get_lineage_info(results, summary, "latency_ms", "miou")


def test_problems_are_gathered_by_reason(make):
    make.metadata["warnings"] = ["class 'train' never occurs in val <b>"]
    folder = make.run(make.rows(40), make.metadata)
    info = get_problems_info(combine_runs([load_run(folder)]))
    assert info.warnings == ["class 'train' never occurs in val <b>"]
    assert [(entry.state, entry.trials) for entry in info.ended_early] == [
        ("failed", ["5", "18", "31"]),
        ("stopped", ["7", "16", "25", "34"]),
    ]
    assert info.num_failed == 3
    html = write_report([folder]).read_text()
    assert "1 warnings, 3 failed trials" in html
    assert "never occurs in val &lt;b&gt;" in html


def test_long_lists_are_cut():
    assert list_labels([str(i) for i in range(14)]).endswith("11 and 2 more")
    assert list_labels(["1", "2"]) == "1, 2"


def test_both_splits_stand_side_by_side(load, rows):
    results, _ = load()
    folder = results.runs[0].folder
    (folder / "test.csv").write_text("trial,network,miou\n,dense,0.6\n0,trial-0,0.625\n")
    html = write_report([folder]).read_text()
    assert "mIoU on test (%)" in html
    assert (
        '<td class="text">trial 0</td><td class="text">64.0</td><td class="text">62.5</td>' in html
    )
    assert (folder / "report/front.csv").read_text().splitlines()[1].count("0.625") == 1


def test_a_network_that_is_kept_out_is_no_answer_but_a_problem(load, rows):
    folder = load()[0].runs[0].folder
    (folder / "deploy").mkdir()
    (folder / "deploy" / "kept_out.json").write_text('{"0": "the engine errs by 0.3"}')
    results = combine_runs([load_run(folder)])
    assert [trial.number for trial in summarize(results).front] == [1, 2]
    assert choose_trial(find_candidates(results), {}).number == 1
    (entry,) = get_problems_info(results).ended_early
    assert (entry.state, entry.reason, entry.trials) == (
        "kept out",
        "the engine errs by 0.3",
        ["0"],
    )
    (folder / "deploy" / "kept_out.json").write_text('{"zero": "no number"}')
    with pytest.raises(
        ResultsError, match=r"kept_out\.json: must contain a reason by trial number"
    ):
        load_run(folder)


def test_a_run_writes_failed_for_a_network_that_is_kept_out(load, rows):
    rows[0] |= {"state": "failed", "reason": "the engine errs by 0.3"}
    folder = load()[0].runs[0].folder
    (folder / "deploy").mkdir()
    (folder / "deploy" / "kept_out.json").write_text('{"0": "the engine errs by 0.3"}')
    info = get_problems_info(combine_runs([load_run(folder)]))
    assert [(entry.state, entry.trials) for entry in info.ended_early] == [("kept out", ["0"])]
    assert info.num_failed == 0


def test_a_note_of_the_pictures_that_is_also_a_warning_is_listed_once(load):
    run = load()[0].runs[0]
    noted = replace(run, warnings=("a", "b"), pictures=SimpleNamespace(notes=("b", "c")))
    assert get_problems_info(combine_runs([noted])).warnings == ["a", "b", "c"]


def test_what_a_time_limit_left_out_is_a_problem_and_the_time_a_fact(make):
    text = "the time limit of 1:00:00 left out 4 of 12 pipelines"
    time = {
        "worked_seconds": 3550.0, "limit_seconds": 3600.0, "estimated_seconds": 5000.0,
        "unit": "GPU-hours", "spent_hours": 1.9, "saved_hours": 0.25, "price_per_hour": 2.0,
        "cost": 3.8, "left_out": [text],
    }  # fmt: skip
    run = load_run(make.run(None, {**make.metadata, "time": time}))
    assert get_problems_info(combine_runs([run])).warnings[0] == text
    assert describe_facts(run)["time"] == (
        "0:59:10 of at most 1:00:00 (estimated 1:23:20), 1.9 GPU-hours, cost 3.80, "
        "sharing saved 0.25"
    )
    assert "time" not in describe_facts(load_run(make.run(name="old")))


def test_what_the_uncompressed_network_bears_is_a_fact(make):
    text = "dense: without the 5% of each layer's channels ..."
    run = load_run(make.run(None, {**make.metadata, "sensitivity": text}))
    assert describe_facts(run)["sensitivity"] == text
    assert "sensitivity" not in describe_facts(load_run(make.run(name="old")))
