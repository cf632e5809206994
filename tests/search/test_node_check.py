from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.on_ray import node_check
from search.on_ray.node_check import NodeReport, check_nodes, inspect_node
from trainables.process.installation import hash_source

ROOT = Path(__file__).parents[2]
DATA, RUN = Path("/mnt/shared/camvid"), Path("/mnt/shared/runs/a")
GOOD = NodeReport(
    versions={"python": "3.12", "torch": "2.10.0+cu128", "ray": "2.60.0", "segfront": "0.1.0"},
    source_hash="abc",
)


def check(node: NodeReport, offered: float = 0.0, **others: NodeReport) -> None:
    nodes = {"10.0.0.2": node, **others}
    check_nodes(GOOD, nodes, {"10.0.0.2": offered}, data_root=DATA, run_dir=RUN)


def test_equal_nodes_pass() -> None:
    check(GOOD)
    check(replace(GOOD, num_gpus=2), offered=2)


def test_builds_of_one_version_pass() -> None:
    check(replace(GOOD, versions={**GOOD.versions, "torch": "2.10.0+cpu"}))


@pytest.mark.parametrize(
    ("changes", "offered", "words"),
    [
        ({"versions": {**GOOD.versions, "python": "3.11"}}, 0, ["python is 3.11", "3.12"]),
        ({"versions": {**GOOD.versions, "torch": "2.9.0"}}, 0, ["torch is 2.9.0", "2.10.0"]),
        ({"versions": {**GOOD.versions, "ray": ""}}, 0, ["ray is missing", "same environment"]),
        ({"versions": {}}, 0, ["python is missing", "segfront is missing"]),
        ({"source_hash": "def"}, 0, ["code (def)", "(abc)", "ray up"]),
        ({"sees_data": False}, 0, [str(DATA), "mount or copy"]),
        ({"sees_run": False, "writes_run": False}, 0, [str(RUN), "--output-dir"]),
        ({"writes_run": False}, 0, [f"cannot write to {RUN}"]),
        ({"storage_error": "ACCESS_DENIED"}, 0, ["ACCESS_DENIED", "instance profile"]),
        ({"num_gpus": 1}, 2, ["finds 1 of the 2 GPUs", "nvidia-smi"]),
    ],
)
def test_difference_names_node_and_remedy(
    changes: dict[str, Any], offered: float, words: list[str]
) -> None:
    with pytest.raises(ValueError, match=r"node 10\.0\.0\.2: ") as error:
        check(replace(GOOD, **changes), offered)
    assert all(word in str(error.value) for word in words)


def test_every_bad_node_is_named_and_no_good_one() -> None:
    bad = replace(GOOD, source_hash="def")
    with pytest.raises(ValueError) as error:
        check(bad, **{"10.0.0.3": GOOD, "10.0.0.4": bad})
    lines = str(error.value).splitlines()
    assert [line.split(":")[0] for line in lines[1:]] == ["node 10.0.0.2", "node 10.0.0.4"]


def test_inspection_sees_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_check, "STORAGE_SECONDS", 0.0)
    data, run = tmp_path / "data", tmp_path / "run"
    data.mkdir()
    run.mkdir()
    probe = run / "probe"
    empty = inspect_node(data, probe)
    assert (empty.sees_data, empty.sees_run, empty.writes_run) == (False, False, True)
    probe.touch()
    (data / "image.png").touch()
    full = inspect_node(data, probe)
    assert (full.sees_data, full.sees_run, full.writes_run) == (True, True, True)
    assert full.source_hash == hash_source(ROOT)
    assert full.versions["torch"]
    assert list(run.iterdir()) == [probe]
    elsewhere = inspect_node(None, tmp_path / "no" / "probe")
    assert (elsewhere.sees_data, elsewhere.sees_run, elsewhere.writes_run) == (True, False, False)
    stored = inspect_node(None, (tmp_path / "storage").as_uri())
    assert (stored.sees_run, stored.writes_run, stored.storage_error) == (True, True, "")
    assert list((tmp_path / "storage").iterdir()) == []
    assert "nowhere" in inspect_node(None, "file:///proc/nowhere").storage_error
    assert inspect_node(None, probe, str(data)).store_error == ""
    store_error = inspect_node(None, probe, str(tmp_path / "no")).store_error
    assert store_error == "it is not a writable folder"
    assert "nowhere" in inspect_node(None, probe, "file:///proc/nowhere").store_error


def test_hash_follows_content_and_place(tmp_path: Path) -> None:
    for folder in ("models", "search", "trainables"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text("a = 1\n")
    first = hash_source(tmp_path)
    (tmp_path / "search" / "notes.txt").write_text("not code")
    assert hash_source(tmp_path) == first
    copy = tmp_path / "copy"
    for folder in ("models", "search", "trainables"):
        shutil.copytree(tmp_path / folder, copy / folder)
    assert hash_source(copy) == first
    (copy / "search" / "a.py").write_text("a = 2\n")
    assert hash_source(copy) != first
    (tmp_path / "search" / "a.py").rename(tmp_path / "search" / "b.py")
    assert hash_source(tmp_path) != first
