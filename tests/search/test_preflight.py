from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from search import preflight
from search.command_line import parse_arguments
from search.preflight import check_store, check_study, fetch_data, settle_paths
from search.recipes import camvid, streets
from search.run import prepare
from search.run_files.remote_run import connect, create_remote_run
from search.run_files.run_folder import create_run_folder
from search.space import set_ranges
from trainables.learning.teacher_cache import TeacherLogitsConfig


def test_store_of_all_studies_stands_for_the_stages_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = settle_paths(replace(streets(), store="shared/store"))
    check_store(config.store, is_remote=False)
    folder = create_run_folder(tmp_path / "runs", config)
    assert (folder / "stages").resolve() == tmp_path / "shared" / "store"
    (folder / "stages" / "dense-1").mkdir()
    assert (tmp_path / "shared" / "store" / "dense-1").is_dir()


def test_store_in_storage_stands_for_the_stages_of_a_run_there(bucket: str, tmp_path: Path) -> None:
    runs, store = connect(bucket) / "runs", connect(bucket) / "store"
    check_store(store.uri, is_remote=True)
    config = replace(streets(), store=store.uri, cache_dir=tmp_path)
    run = create_remote_run(runs, config)
    assert run.store.uri == store.uri
    assert not (run.folder / "stages").exists()


def test_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"store must be a writable folder; .*file"):
        check_store(str(tmp_path / "file"), is_remote=False)
    with pytest.raises(ValueError, match=r"store must be a URI .*; got /store"):
        check_store("/store", is_remote=True)
    with pytest.raises(ValueError, match=r"storage cannot be used: .*nowhere"):
        check_store("file:///proc/nowhere", is_remote=False)
    with pytest.raises(ValueError, match=r"keep must be all when .* store .*; got 'front'"):
        replace(streets(), store="/store", keep="front")


def test_more_top_logits_than_classes_allow_are_refused_before_anything_trains(
    tmp_path: Path,
) -> None:
    config = streets()
    data = replace(config.pipeline.data, num_samples=4, size=(32, 64))
    pipeline = replace(config.pipeline, data=data, teacher_logits=TeacherLogitsConfig(top_k=9))
    config = replace(config, pipeline=pipeline, cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"top_k .* must be at most 8 for this data set; got 9"):
        check_study(config)
    pipeline = replace(pipeline, teacher_logits=TeacherLogitsConfig(top_k=8))
    assert check_study(replace(config, pipeline=pipeline)).num_classes == 19


def test_a_distiller_of_frame_pairs_is_refused_on_still_images(tmp_path: Path) -> None:
    config = streets()
    data = replace(config.pipeline.data, num_samples=4, size=(32, 64))
    space = set_ranges(config.space, {"distilled.distiller": ("none", "consistency")})
    config = replace(
        config, space=space, pipeline=replace(config.pipeline, data=data), cache_dir=tmp_path
    )
    with pytest.raises(ValueError, match=r"consistency needs consecutive frames of a drive"):
        check_study(config)
    odd = replace(config.pipeline, distil=replace(config.pipeline.distil, batch_size=5))
    with pytest.raises(ValueError, match=r"batch_size must be even, .* consistency .*; got 5"):
        check_study(replace(config, pipeline=odd))


def test_what_is_doubtful_about_the_data_is_printed_before_anything_trains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["streets", "--pipeline.data.size", "32", "64", "--pipeline.data.num-samples", "4",
             "--output-dir", str(tmp_path / "runs"), "--cache-dir", str(tmp_path / "cache"),
             "--pipeline.student.width", "0.125", "--pipeline.teacher.width", "0.125"]  # fmt: skip
    *_, dataset = prepare(parse_arguments(flags), Console(width=500))
    printed = capsys.readouterr().out
    assert dataset.warnings
    assert all(f"look at: {text}" in printed for text in dataset.warnings)


@pytest.mark.parametrize("folders", [(), ("train", "trainannot"), None])
def test_data_that_are_missing_or_not_there_yet_are_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folders: tuple[str, ...] | None
) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(preflight, "download_camvid", asked.append)
    root = tmp_path / "CamVid"
    for name in folders or ():
        (root / name).mkdir(parents=True)
    if folders is not None:
        root.mkdir(exist_ok=True)
    config = camvid()
    data = replace(config.pipeline.data, root=root)
    config = replace(config, pipeline=replace(config.pipeline, data=data))
    assert fetch_data(config).pipeline.data.root == root
    assert asked == [root]
    for name in ("train", "trainannot", "val", "valannot"):  # a test split is not needed
        (root / name).mkdir(parents=True, exist_ok=True)
    assert fetch_data(config) == config
    assert asked == [root]
