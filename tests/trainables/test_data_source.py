from dataclasses import replace
from pathlib import Path

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
