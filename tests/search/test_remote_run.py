"""A run in storage: its small files follow the driver's copy, and the longer journal counts."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from search.config import StudyConfig, load_config, save_config
from search.pipelines.front import find_front
from search.pipelines.records import TrialRecord
from search.run import main
from search.run_files import driver_lease, remote_run
from search.run_files.driver_lease import LEASE_FILE
from search.run_files.remote_run import (
    RemoteRun,
    connect,
    create_remote_run,
    find_remote_run,
    removed_if_refused,
)
from trainables.artifacts.remote_folder import RemoteFolder, StorageError
from trainables.artifacts.store import open_store
from trainables.chain import make_settings

SECRET = "kept-to-itself-5c3d"
NOBODY = "s3://bucket/runs?scheme=http&endpoint_override=127.0.0.1:9&region=us-east-1"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_lease, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(remote_run, "SYNC_SECONDS", 0.05)
    monkeypatch.setattr(remote_run, "LONGEST_REST_SECONDS", 0.1)


@pytest.fixture
def run(bucket: str, config: StudyConfig, tmp_path: Path) -> RemoteRun:
    config = replace(config, cache_dir=tmp_path / "cache")
    return create_remote_run(connect(bucket) / "runs", config)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def append(run: RemoteRun, line: str) -> None:
    with (run.folder / "study.journal").open("a") as file:
        file.write(line)


def test_small_files_follow_while_the_run_is_held(run: RemoteRun) -> None:
    with run.held():
        append(run, "1\n")
        wait_for(lambda: run.remote.exists("study.journal"))
        append(run, "2\n")
        wait_for(lambda: run.remote.read("study.journal") == b"1\n2\n")
        assert run.remote.exists(LEASE_FILE)
        (run.folder / "ray.log").write_text("stays here")
        (run.folder / "report").mkdir()
        (run.folder / "report" / "index.html").write_text("late")
    assert run.remote.list().keys() == {"config.json", "study.journal", "report/index.html"}


def test_what_is_only_partly_written_stays_here(run: RemoteRun) -> None:
    for name in ("deploy/0.partial/model.onnx", "deploy/1/model.onnx"):
        (run.folder / name).parent.mkdir(parents=True)
        (run.folder / name).write_text("network")
    with run.held():
        pass
    assert run.remote.exists("deploy/1/model.onnx")
    assert not run.remote.exists("deploy/0.partial/model.onnx")


def test_everything_is_brought_there_after_a_failure_too(run: RemoteRun) -> None:
    def fail() -> None:
        with run.held():
            append(run, "1\n")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert run.remote.read("study.journal") == b"1\n"
    assert not run.remote.exists(LEASE_FILE)


def test_nothing_stays_in_storage_of_a_start_that_is_refused(run: RemoteRun) -> None:
    def refuse() -> None:
        with run.held(), removed_if_refused(run.folder, run):
            append(run, "1\n")
            wait_for(lambda: run.remote.exists("study.journal"))
            raise ValueError("the hardware differs")

    with pytest.raises(ValueError, match="the hardware differs"):
        refuse()
    assert not run.folder.exists()
    assert run.remote.list() == {}


def test_run_goes_on_while_the_storage_is_away(
    run: RemoteRun, s3: object, caplog: pytest.LogCaptureFixture
) -> None:
    with run.held():
        s3.stop()  # type: ignore[attr-defined]
        append(run, "1\n")
        wait_for(lambda: "the run continues" in caplog.text)
        s3.start()  # type: ignore[attr-defined]
        wait_for(lambda: run.remote.exists("study.journal"))
    assert caplog.text.count("the run continues") == 1


def test_lost_run_is_written_to_no_more(run: RemoteRun) -> None:
    with run.held():
        run._lease.is_lost = True
        append(run, "1\n")
    assert not run.remote.exists("study.journal")


def test_run_is_found_again_on_another_machine(run: RemoteRun) -> None:
    with run.held():
        append(run, "1\n")
        (run.folder / "trials.csv").write_text("trial\n")
    open_store(run.folder / "stages", run.store.uri).obtain("dense", "1", lambda folder: {})
    shutil.rmtree(run.folder)
    again = find_remote_run(run.remote.uri)
    assert again.folder == run.folder
    with again.held():
        names = {path.name for path in again.folder.iterdir()}
        assert names == {"config.json", "study.journal", "trials.csv"}
        assert (again.folder / "study.journal").read_text() == "1\n"


@pytest.mark.parametrize(
    ("here", "there", "after"),
    [
        ("1\n2\n", "1\n", "1\n2\n"),
        ("1\n2\n", "1\n2", "1\n2\n"),  # torn there
        ("1\n", "1\n2\n", "1\n2\n"),
        ("1\n3\n", "1\n2\n", "1\n2\n"),  # another driver went on
    ],
)
def test_longer_journal_counts(run: RemoteRun, here: str, there: str, after: str) -> None:
    with run.held():
        append(run, there)
        (run.folder / "trials.csv").write_text("there")
    (run.folder / "study.journal").write_text(here)
    (run.folder / "trials.csv").write_text("here")
    config = load_config(run.folder / "config.json")
    save_config(replace(config, price_per_hour=3.0), run.folder / "config.json")
    again = find_remote_run(run.remote.uri)
    price = load_config(again.folder / "config.json").price_per_hour
    assert price == (3.0 if here == after else None)
    with again.held():
        assert (again.folder / "study.journal").read_text() == after
        assert (again.folder / "trials.csv").read_text() == ("here" if here == after else "there")
    assert again.remote.read("study.journal").decode() == after


def test_networks_of_the_front_are_fetched(run: RemoteRun, tmp_path: Path) -> None:
    elsewhere = open_store(tmp_path / "node", run.store.uri)
    records = []
    for number, miou in enumerate([0.5, 0.4, 0.3]):
        for name in ("distilled", "quantised"):
            elsewhere.obtain(name, str(number), lambda folder: {})
        metrics = {"miou": miou, "num_params": [2.0, 1.0, 3.0][number]}
        stages = {"pruned": "pruned-1", "distilled": f"distilled-{number}"}
        if number == 0:
            stages["quantised"] = "quantised-0"
        records.append(
            TrialRecord(
                number=number,
                state="complete",
                settings=make_settings(),
                metrics=metrics,
                stages=stages,
                network=stages["distilled"],
            )
        )
    front = find_front(records, ("miou", "num_params"), with_equals=True)
    run.fetch_networks([name for record in front for name in record.artefacts])
    fetched = {path.name for path in (run.folder / "stages").iterdir()}
    assert fetched == {".locks", "distilled-0", "distilled-1", "quantised-0"}


def test_second_run_of_one_name_is_refused(run: RemoteRun, monkeypatch: pytest.MonkeyPatch) -> None:
    with run.held():
        pass
    monkeypatch.setattr(remote_run, "create_run_folder", lambda folder, config: run.folder)
    with pytest.raises(ValueError, match="another driver created it"):
        create_remote_run(run.remote.parent, StudyConfig())


@pytest.mark.parametrize("flag", ["--output-dir", "--resume"])
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        (NOBODY, "the storage cannot be used"),
        (f"s3://key:{SECRET}@bucket/runs", "must not contain credentials"),
        ("ftp://host/runs", "ftp"),
    ],
)
def test_storage_that_cannot_be_used_ends_the_command(
    flag: str,
    uri: str,
    words: str,
    s3: object,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote_run, "START_PATIENCE_SECONDS", 0.0)
    monkeypatch.setattr("search.run.check_study", lambda *given: pytest.fail("data were read"))
    arguments = ["streets"] if flag == "--output-dir" else []
    assert main([*arguments, flag, uri]) == 2
    printed = capsys.readouterr()
    assert words in printed.err
    assert SECRET not in printed.out + printed.err


def test_folder_without_a_run_is_named(bucket: str) -> None:
    with pytest.raises(ValueError, match=r"a run.s folder must contain config\.json"):
        find_remote_run(bucket)


def test_storage_that_stays_away_at_the_end_is_said(
    run: RemoteRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("search.run.prepare", lambda *a: (run.folder, run, StudyConfig(), None))
    impatient = run.remote.with_patience(0)

    def lose_storage(*arguments: object) -> int:
        def refuse(self: RemoteFolder, name: str, data: bytes) -> None:
            raise StorageError("away")

        monkeypatch.setattr(RemoteFolder, "write", refuse)
        run.remote = impatient
        append(run, "1\n")
        return 0

    monkeypatch.setattr("search.run.search", lose_storage)
    monkeypatch.setattr("search.run.open_study", lambda *a: None)
    for name in ("Confirmation", "ResultsWriter"):
        monkeypatch.setattr(f"search.run.{name}", lambda *a: None)
    monkeypatch.setattr("search.run.Run", lambda **a: None)
    assert main([]) == 3
    assert "is not completely in storage: away" in capsys.readouterr().err
