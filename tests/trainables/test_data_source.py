from dataclasses import replace
from pathlib import Path

import pytest

from trainables.data import DataError, file_records
from trainables.data_source import DataConfig


def test_a_process_opens_a_split_once():
    config = DataConfig(size=(64, 96), num_samples=8)
    assert config.open("train") is DataConfig(size=(64, 96), num_samples=8).open("train")
    assert len(config.open("val")) == 2
    assert len(replace(config, num_samples=4).open("train")) == 4


def test_a_relative_root_is_that_of_the_working_directory(tmp_path, monkeypatch):
    for name, stem in (("here", "a"), ("there", "b")):
        for folder in ("images", "masks"):
            (tmp_path / name / "data" / folder).mkdir(parents=True)
            (tmp_path / name / "data" / folder / f"{stem}.png").touch()
        (tmp_path / name / "data" / "classes.txt").write_text("road")
        (tmp_path / name / "data" / "train.txt").write_text(stem)
        monkeypatch.chdir(tmp_path / name)
        opened = DataConfig(name="folder", root=Path("data")).open("train")
        assert opened.sample_name(0) == stem


@pytest.mark.parametrize("name", ["synthetic", "synthetic_drives"])
def test_few_samples_still_make_a_validation_split(name):
    config = DataConfig(name=name, size=(64, 96), num_samples=3)
    assert [len(config.open(split)) for split in ("train", "val", "test")] == [3, 1, 1]


def test_a_file_of_one_class_stays_what_it_holds(tmp_path, monkeypatch):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    (tmp_path / "train.txt").write_text("a")
    for name in ("pole.thin", "car/truck", "classes.txt"):
        (tmp_path / "one.txt").write_text(name)
        settled = DataConfig(name="folder", root=tmp_path, classes=("one.txt",)).settle()
        assert settled.open("train").classes == ("background", name)
        assert settled.settle() == settled
    (tmp_path / "one.txt").write_text("")
    (tmp_path / "classes.txt").write_text("other")
    with pytest.raises(DataError, match="must name 1 to 255 classes"):
        DataConfig(name="folder", root=tmp_path, classes=("one.txt",)).settle().open("train")


def test_a_change_of_a_folder_alone_is_looked_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(file_records, "_SETTLED_AFTER_NS", -1)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    (tmp_path / "classes.txt").write_text("road")
    (tmp_path / "train.txt").write_text("a")
    config = DataConfig(name="folder", root=tmp_path)
    config.open("train")
    (tmp_path / "notes.md").touch()
    opened = config.open("train")
    assert config.open("train") is opened
    assert opened.is_unchanged()
