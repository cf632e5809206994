"""The whole command: Ctrl-C, kill -9 and --resume lose nothing and count nothing twice."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from trainables.artifacts.remote_folder import RemoteFolder

ROOT = Path(__file__).parents[2]
SECRET = "kept-to-itself-93ab"
TINY = shlex.split("""
    --num-pipelines 4 --max-concurrent 2 --no-dashboard --no-estimate --pipeline.data.size 64 128
    --pipeline.data.num-samples 16 --pipeline.data.augmentation.crop-size 64 64
    --pipeline.latency.max-seconds 0.2 --pipeline.teacher.name dual_branch
    --pipeline.teacher.backbone tu-resnet18 --pipeline.teacher.width 0.125
    --pipeline.student.width 0.125 --pipeline.teacher-training.num-steps 2
    --pipeline.dense.num-steps 2 --pipeline.sparse.num-steps 2 --pipeline.distil.num-steps 2
""")


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a driver; none outlives its test."""
    started: list[subprocess.Popen[str]] = []

    def start_driver(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "search" / "run.py"), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "AWS_SECRET_ACCESS_KEY": SECRET,
                "HF_TOKEN": SECRET,
            },
        )
        started.append(process)
        return process

    yield start_driver
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def kill_with_ray(process: subprocess.Popen[str]) -> None:
    """kill -9 of a driver and of everything that it has started: a head that loses its power."""
    for victim in [*psutil.Process(process.pid).children(recursive=True), process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            victim.kill()
    process.communicate()


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def read_trials(folder: Path) -> list[dict[str, str]]:
    path = folder / "trials.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def complete(folder: Path) -> dict[str, str]:
    return {row["trial"]: row["miou"] for row in read_trials(folder) if row["state"] == "complete"}


def retrained(folder: Path) -> list[dict[str, str]]:
    path = folder / "confirmation.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def read_processes(folder: Path) -> set[int]:
    """Process ids of all that have computed stages of pipelines."""
    paths = [path for path in folder.glob("tune/*/*/result.json") if "-" in path.parent.name]
    return {json.loads(line)["pid"] for path in paths for line in path.read_text().splitlines()}


def check_confirmation(folder: Path, output: str) -> None:
    """Every member of the front was retrained three times, beside the study and not in it."""
    assert json.loads((folder / "config.json").read_text())["confirm"] == 3
    with (folder / "report" / "front.csv").open() as file:
        front = {row["trial"]: row for row in csv.DictReader(file)}
    rows = retrained(folder)
    assert {row["state"] for row in rows} == {"complete"}
    # Of equal networks the first is retrained; the report shows them all.
    members = {row["trial"] for row in rows}
    assert members <= front.keys()
    assert [(row["trial"], row["seed"]) for row in rows] == [
        (trial, seed) for trial in sorted(members) for seed in ("1", "2", "3")
    ]
    folders = {row["network"] for row in rows}
    assert len(folders) == len(rows)
    assert not folders & {row["stage/distilled"] for row in read_trials(folder)}
    assert all((folder / "stages" / name / "result.json").is_file() for name in folders)
    for trial in members:
        assert 0 <= float(front[trial]["probability_non_dominated"]) <= 1
        assert float(front[trial]["num_retrainings"]) == 3
        assert float(front[trial]["speedup_realised_share"]) > 0
    assert "The front retrained" in output


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_interrupted_and_killed_study_ends_as_if_nothing_had_happened(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    process = start("streets", *TINY, "--output-dir", str(tmp_path), "--cache-dir",
                    str(tmp_path / "cache"))  # fmt: skip
    wait_until(lambda: any(complete(f) for f in tmp_path.glob("streets-*")), process)
    folder = next(tmp_path.glob("streets-*"))
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, (output, errors)
    assert errors == ""
    assert f"--resume {folder}" in output
    assert (folder / "report" / "index.html").is_file()
    after_interrupt = complete(folder)

    process = start("--resume", str(folder), "--no-dashboard")
    wait_until(lambda: len(complete(folder)) > len(after_interrupt), process)
    kill_with_ray(process)
    after_kill = complete(folder)

    process = start("--resume", str(folder), "--no-dashboard", "--confirm", "3")
    wait_until(lambda: bool(retrained(folder)), process)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 130, (output, errors)
    assert errors == ""
    assert f"--resume {folder}" in output
    assert "The front retrained" in output
    kept = retrained(folder)

    process = start("--resume", str(folder), "--no-dashboard", "--confirm", "3")
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, (output, errors)
    assert "(raylet)" not in output + errors
    check_confirmation(folder, output)
    assert [row for row in retrained(folder) if row in kept] == kept

    trials = read_trials(folder)
    assert [row["trial"] for row in trials] == ["0", "1", "2", "3"]
    final = complete(folder)
    assert len(final) == 4
    for earlier in (after_interrupt, after_kill):
        assert earlier.items() <= final.items()
    for row in trials:
        for stage in ("dense", "sparse", "pruned", "distilled"):
            assert (folder / "stages" / row[f"stage/{stage}"]).is_dir()
    paid = [float(row["seconds/dense"]) for row in trials]
    assert paid == [0.0] * 4
    metadata = json.loads((folder / "metadata.json").read_text())
    assert [baseline["name"] for baseline in metadata["baselines"]] == ["teacher", "dense"]
    assert metadata["sensitivity"].startswith("dense: without the 5% of each layer's channels")

    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert folder / "ray.log" in written
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert SECRET not in output + errors


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_studies_that_share_a_store_compute_a_stage_once(
    tmp_path: Path, start: Callable[..., subprocess.Popen[str]]
) -> None:
    store, points = tmp_path / "store", tmp_path / "points.json"
    flags = [*TINY, "--cache-dir", str(tmp_path / "cache"), "--store", str(store)]
    flags += ["--points", str(points), "--num-pipelines", "2", "--no-deploy"]
    flags += ["--pipeline.sparse.num-steps", "600"]  # longer than another process takes to start
    computed: list[dict[str, int]] = []
    for runs, point in (("first", {"temperature": 2}), ("second", {"temperature": 3})):
        point |= {"pruning_ratio": 0.4, "lr": 0.003}
        points.write_text(json.dumps([point, {**point, "sparsity_lambda": 1e-4}]))
        process = start("streets", *flags, "--output-dir", str(tmp_path / runs))
        output, errors = process.communicate(timeout=400)
        assert process.returncode == 0, (output, errors)
        results = store.glob("*/result.json")
        computed.append({path.parent.name: path.stat().st_mtime_ns for path in results})
        (run,) = (tmp_path / runs).glob("streets-*")
        if runs == "first":
            assert len(read_processes(run)) == 2
    one, two = computed
    assert one.items() < two.items()
    assert not [name for name in two.keys() - one.keys() if name.startswith(("teacher", "dense"))]

    first = read_trials(run)[0]
    assert first["config/distilled.dkd.temperature"] == "3.0"
    assert first["config/pruned.pruning_ratio"] == "0.4"
    assert [first[f"stage/{stage}"] in one for stage in ("pruned", "distilled")] == [True, False]
    assert [float(first[f"seconds/{stage}"]) for stage in ("dense", "sparse", "pruned")] == [0] * 3
    assert (run / "stages" / first["stage/distilled"] / "checkpoint.safetensors").is_file()


def read_remote_trials(run: RemoteFolder) -> dict[str, str]:
    """mIoU of the complete trials as trials.csv in storage has them."""
    if not run.exists("trials.csv"):
        return {}
    rows = csv.DictReader(io.StringIO(run.read("trials.csv").decode()))
    return {row["trial"]: row["miou"] for row in rows if row["state"] == "complete"}


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(900)
def test_study_in_storage_goes_on_from_there_alone_and_outlasts_a_minute_without_it(
    tmp_path: Path, s3: Any, bucket: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    runs, cache = RemoteFolder(bucket) / "runs", tmp_path / "cache"
    process = start("streets", *TINY, "--output-dir", runs.uri, "--cache-dir", str(cache))
    wait_until(lambda: any(name.endswith("config.json") for name in runs.list()), process)
    (name,) = (name for name in runs.list() if name.endswith("config.json"))
    run = runs / name.partition("/")[0]
    wait_until(lambda: bool(read_remote_trials(run)), process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    after_kill = read_remote_trials(run)
    while (cache / "runs").exists():  # until the last worker has noticed
        shutil.rmtree(cache / "runs", ignore_errors=True)
        time.sleep(0.5)
    finished = {name: run.read(name) for name in run.list() if name.endswith("/result.json")}
    assert len(finished) >= 6  # teacher, dense, their latency, sparse, pruned, distilled
    run.delete("driver.json")  # as if a minute had passed

    process = start("--resume", run.uri, "--no-dashboard")
    wait_until(lambda: len(read_remote_trials(run)) > len(after_kill), process)
    s3.stop()
    time.sleep(60)
    assert process.poll() is None
    s3.start()
    output, errors = process.communicate(timeout=500)
    assert process.returncode == 0, (output, errors)
    final = read_remote_trials(run)
    assert len(final) == 4
    assert after_kill.items() <= final.items()
    # A stage that had been computed again would have taken another number of seconds.
    assert {name: run.read(name) for name in finished} == finished
    written = run.list()
    assert {"config.json", "study.journal", "metadata.json", "report/index.html"} <= written.keys()
    assert not [name for name in written if ".partial/" in name or name == "driver.json"]

    (copy,) = (cache / "runs").glob(f"*/{run.name}")
    with (copy / "report" / "front.csv").open() as file:
        for row in csv.DictReader(file):
            assert (copy / "stages" / row["stage"] / "checkpoint.safetensors").is_file()
            assert f"stages/{row['stage']}/result.json" in written
    assert f"--resume '{run.uri}'" in output
    contents = [run.read(name) for name in written]
    contents += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    contents += [(output + errors).encode()]
    assert not [content for content in contents if SECRET.encode() in content]
