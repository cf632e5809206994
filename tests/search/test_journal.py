"""The journal's batches: known at once, on the disk together, and in order among other writers."""

from __future__ import annotations

import os
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from search.pipelines.journal import BatchingJournal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "study.journal"


def open_study(backend: optuna.storages.journal.BaseJournalBackend) -> optuna.Study:
    return optuna.create_study(study_name="s", storage=JournalStorage(backend), load_if_exists=True)


def num_lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def test_a_batch_is_known_at_once_and_written_in_one_go(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = BatchingJournal(path)
    study = open_study(journal)
    before = num_lines(path)
    synced: list[int] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: synced.append(num_lines(path)) or sync(file))
    with journal.batch():
        trial = study.ask()
        assert trial.suggest_float("x", 0, 1) == study.trials[0].params["x"]
        with journal.batch():
            study.tell(trial, 1.0)
        assert study.best_value == 1.0
        assert num_lines(path) == before
    assert len(synced) == 1
    assert num_lines(path) == before + 3
    storage = JournalStorage(JournalFileBackend(str(path)))
    assert optuna.load_study(study_name="s", storage=storage).trials == study.trials
    study.add_trial(study.trials[0])  # a single change is written by itself
    assert num_lines(path) == before + 4
    assert len(synced) == 2


def test_other_writers_keep_their_place(path: Path) -> None:
    journal = BatchingJournal(path)
    ours = open_study(journal)
    theirs = open_study(JournalFileBackend(str(path)))
    for number in range(3):
        theirs.set_user_attr("theirs", number)
        with journal.batch():
            ours.set_user_attr("ours", number)
            assert ours.user_attrs == {"theirs": number, "ours": number}
        assert theirs.user_attrs == ours.user_attrs
        trial = theirs.ask()
        theirs.tell(trial, float(number))
        assert ours.trials == theirs.trials
    assert not path.with_name("study.journal.lock").is_symlink()


def test_another_writer_waits_for_the_end_of_a_batch(path: Path) -> None:
    journal = BatchingJournal(path)
    ours = open_study(journal)
    with journal.batch():
        ours.set_user_attr("ours", 1)
        assert path.with_name("study.journal.lock").is_symlink()
    assert not path.with_name("study.journal.lock").is_symlink()


def test_what_was_done_before_an_error_is_kept(path: Path) -> None:
    journal = BatchingJournal(path)
    study = open_study(journal)

    def fail() -> None:
        study.set_user_attr("a", 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), journal.batch():
        fail()
    assert open_study(BatchingJournal(path)).user_attrs == {"a": 1}


def test_what_is_kept_is_what_will_be_read(path: Path) -> None:
    journal = BatchingJournal(path)
    study = open_study(journal)
    given = {"a": (1, 2)}
    with journal.batch():
        study.set_user_attr("given", given)
        given["a"] = (3,)
    assert study.user_attrs == {"given": {"a": [1, 2]}}
