"""What a study's submitter says to a job server, and what it makes of the answers."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.job_submission import JobStatus
from rich.console import Console

from search.on_ray import jobs as ray_jobs
from search.on_ray.jobs import SHIPPED, is_job_server, submit_study
from search.run import main

ADDRESS = "http://127.0.0.1:8265"


class Client:
    """A job server's client; the job ends as told, at once or when it is stopped."""

    def __init__(self, address: str) -> None:
        self.submitted: dict[str, Any] = {}
        self.files: list[str] = []
        self.details = SimpleNamespace(
            status=JobStatus.SUCCEEDED, driver_exit_code=0, message="finished"
        )
        self.interruptions = 0

    def submit_job(self, **job: Any) -> str:
        self.submitted = job
        folder = Path(job["runtime_env"]["working_dir"])
        self.files = [p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()]
        return "job-1"

    async def tail_job_logs(self, job: str) -> AsyncIterator[str]:
        yield "run folder: /mnt/runs/x\n"
        if self.interruptions:
            self.interruptions -= 1
            raise KeyboardInterrupt

    def stop_job(self, job: str) -> None:
        self.details.status, self.details.driver_exit_code = JobStatus.STOPPED, None

    def get_job_info(self, job: str) -> SimpleNamespace:
        return self.details


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    client = Client(ADDRESS)
    monkeypatch.setattr(ray_jobs, "JobSubmissionClient", lambda address: client)
    return client


def run(*flags: str) -> int:
    return main(["streets", *flags])


OUTPUT = ("--output-dir", "/mnt/runs")


@pytest.mark.parametrize("words", [("--address", ADDRESS), (f"--address={ADDRESS}",)])
def test_the_job_is_the_same_command_inside_the_cluster(
    client: Client, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*words, *OUTPUT, "--seed", "3") == 0
    assert shlex.split(client.submitted["entrypoint"]) == [
        "python", "search/run.py", "streets", *OUTPUT, "--seed", "3", "--address", "auto",
    ]  # fmt: skip
    output = capsys.readouterr().out
    assert "job-1" in output
    assert "run folder: /mnt/runs/x" in output


def test_the_code_of_this_checkout_goes_with_it_and_nothing_else(client: Client) -> None:
    run("--address", ADDRESS, *OUTPUT)
    names = set(client.files)
    assert {"search/run.py", "analysis/report.py", "trainables/data/scene.py"} <= names
    assert {name.partition("/")[0] for name in names} == set(SHIPPED)
    assert not Path(client.submitted["runtime_env"]["working_dir"]).exists()


def test_the_users_networks_go_with_it(
    client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = (
        "from torch import nn\n\ndef make(num_classes):\n    return nn.Conv2d(3, num_classes, 1)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "job_pack").mkdir()
    for name in ("job_pack/__init__.py", "job_pack/net.py", "job_net.py", "unrelated.py"):
        (tmp_path / name).write_text(net)
    names = ("job_pack.net:make", "job_net.py:make", "of_the_cluster.nets:make")
    run("--address", ADDRESS, *OUTPUT, f"--student={names[1]}", "--teacher", names[0])
    own = {name for name in client.files if name.partition("/")[0] not in SHIPPED}
    file = next(name for name in own if name.endswith("job_net.py"))
    assert own == {"job_pack/__init__.py", "job_pack/net.py", file}
    sent = shlex.split(client.submitted["entrypoint"])[5:]
    assert sent == [f"--student={file}:make", "--teacher", names[0], "--address", "auto"]
    run("--address", ADDRESS, *OUTPUT, "--students", "espnet", *names[1:])
    sent = shlex.split(client.submitted["entrypoint"])[5:]
    assert sent == ["--students", "espnet", f"{file}:make", names[2], "--address", "auto"]


def test_a_network_that_cannot_be_imported_is_not_sent(
    client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.py").write_text("import no_such_library\n")
    assert run("--address", ADDRESS, *OUTPUT, "--student", f"{tmp_path}/broken.py:make") == 2
    assert "No module named 'no_such_library'" in " ".join(capsys.readouterr().err.split())
    assert not client.submitted


@pytest.mark.parametrize("status", [1, 2, 3])
def test_exit_status_is_the_study_s(client: Client, status: int) -> None:
    client.details.status, client.details.driver_exit_code = JobStatus.FAILED, status
    assert run("--address", ADDRESS, *OUTPUT) == status


def test_a_job_that_never_ran_is_explained(
    client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    client.details = SimpleNamespace(
        status=JobStatus.FAILED, driver_exit_code=None, message="no space left"
    )
    assert run("--address", ADDRESS, *OUTPUT) == 2
    assert "job-1 ended as FAILED: no space left" in capsys.readouterr().err


def test_ctrl_c_stops_the_job(client: Client) -> None:
    client.interruptions = 1
    assert run("--address", ADDRESS, *OUTPUT) == 143


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "output_dir must be a URI, or an absolute path"),
        (("--output-dir", "runs"), "got runs"),
        (("--seed", "-1"), "seed must be at least 0"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sent(
    client: Client, flags: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status: Any = run("--address", ADDRESS, *flags)
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in " ".join(capsys.readouterr().err.split())
    assert not client.submitted


def test_a_run_is_resumed_by_its_whole_path(client: Client) -> None:
    assert main(["--resume", "s3://bucket/runs/x", "--address", ADDRESS]) == 0
    assert client.submitted["entrypoint"].split()[2:4] == ["--resume", "s3://bucket/runs/x"]


def test_nobody_at_the_address_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--address", "http://127.0.0.1:9", *OUTPUT) == 2
    assert "no Ray job server accepts a study at http://127.0.0.1:9" in capsys.readouterr().err


def test_connection_lost_says_how_to_go_on(client: Client) -> None:
    def fail(job: str) -> Any:
        raise RuntimeError("closed")

    client.tail_job_logs = fail  # type: ignore[method-assign]
    arguments: Any = SimpleNamespace(resume="/mnt/runs/x", output_dir="")
    with pytest.raises(ValueError, match=r"continues there; .*: ray job logs --follow job-1"):
        submit_study(ADDRESS, [], arguments, Console())


def test_other_addresses_are_those_of_a_cluster() -> None:
    assert is_job_server("https://head:8265")
    assert not is_job_server("auto")
    assert not is_job_server("10.0.0.1:6379")
