from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from analysis import report
from analysis.report import main, write_report

OUTPUTS = {
    "index.html",
    "plotly.min.js",
    "front.csv",
    "front_latency.png",
    "front_params.png",
    "hypervolume.png",
}


class Tags(HTMLParser):
    """Every tag with its attributes, and the text outside scripts."""

    def __init__(self):
        super().__init__()
        self.tags = []
        self.text = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] not in ("script", "style"):
            self.text.append(data)


HIDDEN_PICTURE = {"alt": "", "loading": "lazy", "hidden": None}


def handlers(page):
    return [v for _, attributes in page.tags for k, v in attributes.items() if k.startswith("on")]


def parse(path):
    parser = Tags()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_report_is_whole_and_self_contained(make):
    path = write_report([make.run()])
    assert path.name == "index.html"
    assert {file.name for file in path.parent.iterdir()} == OUTPUTS
    page = parse(path)
    assert all("src" not in attributes for _, attributes in page.tags)
    (library,) = [a["data-plotly"] for _, a in page.tags if "data-plotly" in a]
    assert (path.parent / library).is_file()
    links = [a["href"] for tag, a in page.tags if tag == "link"]
    assert links == ["data:,"]
    figures = {a["data-figure"] for _, a in page.tags if "data-figure" in a}
    assert figures == {
        "front-latency",
        "front-params",
        "front-3d",
        "lineage",
        "hypervolume-trials",
        "hypervolume-hours",
        "parallel",
        "importance",
    }
    assert figures <= {a.get("id") for tag, a in page.tags if tag == "script"}


def test_everything_shown_is_escaped(make):
    make.metadata["recipe"] = "<script>alert(4)</script>"
    make.metadata["objectives"][1]["label"] = "<img src=x onerror=alert(5)>"
    make.metadata["baselines"][0]["name"] = "<script>alert(6)</script>"
    rows = make.rows()
    for row in rows:
        row["stage/distilled"] = row["stage/distilled"] and '"><script>alert(7)<script>'
    page = parse(write_report([make.run(rows, make.metadata)]))
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    # Data of 8 figures, of the sliders and of the dark colours; the page's own script and one word.
    assert len(scripts) == 12
    assert [a for tag, a in page.tags if tag == "img"] == [HIDDEN_PICTURE]
    assert not any(tag == "b" for tag, _ in page.tags)
    assert handlers(page) == ["return false"]
    text = "".join(page.text)
    for number in (2, 3, 4):
        assert f"alert({number})" in text


def test_names_of_everything_are_escaped(make):
    bad = "<img src=x onerror=alert(1)>"
    metadata = make.metadata
    metadata["dataset"]["name"] = f"{bad}data"
    metadata["latency"]["dtype"] = f"{bad}dtype"
    metadata["versions"][f"{bad}package"] = f"{bad}version"
    metadata["git"]["commit"] = f"{bad}commit"
    metadata["created_at"] = f"{bad}created"
    rows = make.rows()
    for row in rows:
        row[f"config/{bad}setting"] = row["trial"]
        row[f"stage/{bad}stage"] = "distilled-1"
    folder = make.run(rows, metadata, name=f"{bad}run", columns=list(rows[0]))
    page = parse(write_report([folder]))
    assert [a for tag, a in page.tags if tag == "img"] == [HIDDEN_PICTURE]
    assert handlers(page) == ["return false"]
    text = "".join(page.text)
    for part in ("data", "dtype", "package", "version", "commit", "created", "setting",
                 "stage", "run"):  # fmt: skip
        assert f"{bad}{part}" in text, part


def test_data_in_scripts_cannot_end_the_script(make):
    html = write_report([make.run()]).read_text(encoding="utf-8")
    blocks = re.findall(r'<script type="application/json" id="[^"]+">(.*?)</script>', html, re.S)
    assert len(blocks) == 10
    assert all("<" not in block for block in blocks)


def test_checkpoint_links_lead_to_files(make, tmp_path):
    for output in (None, tmp_path / "elsewhere" / "out"):
        path = write_report([make.run(name=f"run-{output is None}")], output)
        links = [
            a["href"]
            for tag, a in parse(path).tags
            if tag == "a" and a["href"].endswith(".safetensors")
        ]
        assert links
        assert all((path.parent / link).is_file() for link in links)


def no_trials(rows):
    return []


def none_complete(rows):
    return [row | {"state": "failed", "reason": "no memory"} for row in rows]


def one_trial(rows):
    return rows[:1]


def all_equal(rows):
    same = {"miou": 0.5, "latency_ms": 9.0, "num_params": 1e5}
    return [row | same | {"state": "complete"} for row in rows]


def zeros(rows):
    same = {"miou": 0.0, "latency_ms": 0.0, "num_params": 0.0}
    return [row | same | {"state": "complete"} for row in rows]


def no_hours(rows):
    return [row | {"elapsed_hours": ""} for row in rows]


@pytest.mark.parametrize(
    "degrade", [no_trials, none_complete, one_trial, all_equal, zeros, no_hours]
)
def test_degenerate_runs_still_give_a_report(make, degrade):
    path = write_report([make.run(degrade(make.rows(24)))])
    html = path.read_text(encoding="utf-8")
    shown = re.sub(r"<script.*?</script>", "", html, flags=re.S)
    assert not re.search(r">(nan|inf)|(nan|inf) (ms|M|%)", shown)
    if degrade is not all_equal and degrade is not zeros:
        assert "Not drawn:" in html
    if degrade in (no_trials, none_complete):
        assert "No network has been measured to the end yet." in html


@pytest.mark.parametrize("kept", [["miou"], ["miou", "latency_ms"], ["num_params", "miou"]])
def test_fewer_objectives(make, kept):
    objectives = {entry["name"]: entry for entry in make.metadata["objectives"]}
    make.metadata["objectives"] = [objectives[name] for name in kept]
    path = write_report([make.run(None, make.metadata)])
    html = path.read_text(encoding="utf-8")
    assert 'id="front-3d"' not in html
    assert 'id="parallel"' in html


def test_no_baselines_no_reference_no_descriptions(make):
    metadata = {"objectives": [e | {"reference": None} for e in make.metadata["objectives"]]}
    html = write_report([make.run(None, metadata)]).read_text(encoding="utf-8")
    assert "has no reference" in html


def test_missing_column_is_noted(make):
    columns = [name for name in make.rows(1)[0] if name != "latency_ms"]
    path = write_report([make.run(columns=columns)])
    assert "no column latency_ms" in path.read_text(encoding="utf-8")


def test_pngs_of_an_earlier_report_do_not_outlive_it(make):
    folder = make.run()
    path = write_report([folder])
    header = (folder / "trials.csv").read_text().splitlines()[0]
    (folder / "trials.csv").write_text(header + "\n")
    write_report([folder])
    left = {"index.html", "plotly.min.js", "front.csv"}
    assert {file.name for file in path.parent.iterdir()} == left


def test_several_runs(make):
    folders = [make.run(name="a"), make.run(make.rows(8, seed=1), name="b")]
    path = write_report(folders)
    assert path.parent.parent == folders[0].resolve()
    text = "".join(parse(path).text)
    assert "a, b" in text
    assert "a/" in text


def test_command_prints_the_path(make):
    folder = make.run(make.rows(4))
    script = Path(report.__file__)
    done = subprocess.run(
        [sys.executable, script, folder],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(script.parents[1]), "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(folder.resolve() / "report" / "index.html")
    assert done.stderr == ""


def test_command_says_what_is_missing(tmp_path, capsys):
    assert main([str(tmp_path)]) == 1
    assert "metadata.json: missing" in capsys.readouterr().err
    assert main([str(tmp_path / "none")]) == 1
    assert "no such run folder" in capsys.readouterr().err
