"""A user's networks take the place of a recipe's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from search.command_line import parse_arguments
from trainables.chain import build_chain, flatten_chain


def parse(*flags: str):
    return parse_arguments(["camvid", *flags]).study


def test_a_network_takes_the_place_of_the_recipes_with_none_of_its_options() -> None:
    student = parse("--student", "smp:Unet", "--pipeline.student.kwargs", '{"depth": 3}')
    assert student.pipeline.student.name == "smp:Unet"
    assert student.pipeline.student.kwargs == {"depth": 3}
    assert student.pipeline.student.backbone is None
    assert student.pipeline.student.width is None
    assert student.pipeline.teacher.name == "deeplabv3plus"


def test_weights_belong_to_the_network_that_is_named(tmp_path: Path) -> None:
    study = parse("--student", "espnet", "--student-weights", "espnet.safetensors")
    assert study.pipeline.student.weights == "espnet.safetensors"
    study = parse("--teacher-weights", "teacher.safetensors")
    assert study.pipeline.teacher.name == "deeplabv3plus"
    assert study.pipeline.teacher.weights == "teacher.safetensors"
    assert study.pipeline.teacher.backbone_weights is None


@pytest.mark.parametrize("word", ["--student_weights=my_net.pth", "--student-weights=my_net.pth"])
def test_flags_may_be_written_with_underscores(word: str) -> None:
    assert parse(word).pipeline.student.weights == "my_net.pth"
    assert parse("--space.pruning_ratio.low", "0.4").space.pruned.pruning_ratio.low == 0.4


def test_the_student_may_teach_itself() -> None:
    assert parse("--teacher", "same").pipeline.self_teaching
    assert not parse("--teacher", "espnet").pipeline.self_teaching
    previous = parse("--teacher", "previous").pipeline
    assert previous.self_teaching
    assert previous.previous_teaches
    assert not parse("--teacher", "same").pipeline.previous_teaches
    with pytest.raises(ValueError, match="--teacher previous has the weights of the student"):
        parse("--teacher", "previous", "--teacher-weights", "t.pth")


def test_several_students_are_a_choice_of_the_search(tmp_path: Path) -> None:
    study = parse("--students", "espnet", "enet", "--num-pipelines", "3")
    assert set(study.pipeline.students) == {"espnet", "enet"}
    assert study.space.dense.student == ("espnet", "enet")
    assert study.num_pipelines == 3
    path = tmp_path / "students.json"
    path.write_text(json.dumps({"small": {"name": "espnet", "weights": "a.safetensors"}}))
    students = parse("--students", str(path), "enet").pipeline.students
    assert students["small"].weights == "a.safetensors"
    path = tmp_path / "students.toml"
    path.write_text('[small]\nname = "espnet"\n')
    assert parse("--students", str(path)).pipeline.students["small"].name == "espnet"


def test_one_student_takes_the_place_of_all_the_recipes_students() -> None:
    for flags in (["--student", "espnet"], ["--student-weights", "net.safetensors"]):
        study = parse_arguments(["papers_camvid", *flags]).study
        assert study.pipeline.students == {}
        assert study.space.dense.student == ("student",)
        assert len(study.first_points) == 9
        stages = study.pipeline.chain
        points = [flatten_chain(build_chain(stages, point)) for point in study.first_points]
        assert all(study.space.contains(point) for point in points)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--student", "unet5000"], "--student: model must be one of .*got 'unet5000'"),
        (["--students", "espnet", "espnet"], "name each network only once, got espnet twice"),
        (["--students", "nowhere.json"], "nowhere.json cannot be read"),
        (["--students", "unet5000"], "--students: unet5000: "),
        (["--student", "espnet", "--students", "enet"], "--student and .* cannot be given with it"),
        (["--student-weights", "w.pth", "--students", "enet"], "--students names all networks"),
        (["--teacher", "same", "--teacher-weights", "t.pth"], "cannot be given with it; got t.pth"),
    ],
)
def test_what_cannot_be_used_is_named(flags: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse(*flags)


@pytest.mark.parametrize("name", ["teacher", "dense"])
def test_a_student_does_not_take_the_name_of_another_network(name: str, tmp_path: Path) -> None:
    path = tmp_path / "students.json"
    path.write_text(json.dumps({name: {"name": "espnet"}}))
    with pytest.raises(ValueError, match=f"students must not be named {name}"):
        parse("--students", str(path))
