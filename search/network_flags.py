"""Flags that replace a recipe's networks by the user's: --student, --teacher and the like."""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from search.config import StudyConfig
from search.space import set_ranges
from trainables.network_config import NetworkConfig
from trainables.pipeline_config import STUDENT

SAME = "same"
PREVIOUS = "previous"


def put_networks(argv: Sequence[str], study: StudyConfig) -> StudyConfig:
    """Replace a recipe's networks by those that the command line names.

    They become the defaults of `--pipeline.student.*` and `--pipeline.teacher.*`, so that these
    flags still change them.

    Args:
        argv: Words of the command line; not modified.
        study: Configuration that the recipe returned.

    Raises:
        ValueError: A network, or the file that lists networks, cannot be used, or two flags
            contradict each other.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--student", "--student-weights", "--teacher", "--teacher-weights"):
        parser.add_argument(name)
    parser.add_argument("--students", nargs="+", default=[])
    try:
        given, _ = parser.parse_known_args(list(argv))
    except argparse.ArgumentError:
        return study  # tyro will report what is wrong
    names_one = given.student is not None or given.student_weights is not None
    if names_one and given.students:
        raise ValueError(
            "--students names all networks to compress, so --student and --student-weights cannot "
            "be given with it; a file for --students can name weights for each network"
        )
    is_self_taught = given.teacher in (SAME, PREVIOUS)
    if is_self_taught and given.teacher_weights is not None:
        raise ValueError(
            f"--teacher {given.teacher} has the weights of the student, so --teacher-weights "
            f"cannot be given with it; got {given.teacher_weights}"
        )
    pipeline = study.pipeline
    student = _change(pipeline.student, given.student, given.student_weights, "student")
    is_previous = given.teacher == PREVIOUS
    if given.teacher is None and given.teacher_weights is None:
        is_self_taught, is_previous = pipeline.self_teaching, pipeline.previous_teaches
    named = None if is_self_taught else given.teacher
    pipeline = replace(
        pipeline,
        student=student,
        teacher=_change(pipeline.teacher, named, given.teacher_weights, "teacher"),
        self_teaching=is_self_taught,
        previous_teaches=is_previous,
    )
    if not (names_one or given.students):
        return replace(study, pipeline=pipeline)
    students, setting = _read_students(given.students), f"{pipeline.chain[0]}.student"
    points = study.first_points
    if names_one:  # the recipe's points are tried with the only network that is left
        points = tuple({n: v for n, v in point.items() if n != setting} for point in points)
    return replace(
        study,
        pipeline=replace(pipeline, students=students),
        space=set_ranges(study.space, {setting: tuple(students) or (STUDENT,)}),
        first_points=points,
    )


def _change(
    network: NetworkConfig, name: str | None, weights: str | None, flag: str
) -> NetworkConfig:
    """Replace name and weights; a new name drops the recipe's options, new weights keep them."""
    try:
        if name is not None:
            network = NetworkConfig(name=name)
    except ValueError as error:
        raise ValueError(f"--{flag}: {error}") from None
    if weights is None:
        return network
    return replace(network, weights=weights, backbone_weights=None)


def _read_students(words: Sequence[str]) -> dict[str, NetworkConfig]:
    found: dict[str, NetworkConfig] = {}
    for word in words:
        entries = _read_file(Path(word)) if word.endswith((".json", ".toml")) else {word: {}}
        for name, options in entries.items():
            if name in found:
                raise ValueError(f"--students must name each network only once, got {name} twice")
            try:
                found[name] = TypeAdapter(NetworkConfig).validate_python({"name": name, **options})
            except (ValidationError, TypeError, ValueError) as error:
                text = " ".join(str(error).split())
                raise ValueError(f"--students: {name}: {text}") from None
    return found


def _read_file(path: Path) -> dict[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        raise ValueError(f"--students: {path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--students: {path} cannot be read: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(v, dict) for v in content.values()):
        raise ValueError(
            f"--students: {path} must hold networks by name, such as "
            '{"small": {"name": "espnet", "weights": "espnet.safetensors"}}'
        )
    return content
