"""`ray up` to `ray down` of cluster.local.yaml, on hosts: studies, S3, a lost head, a cut link."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# Prints the number of nodes that are alive, and prints it again when it has changed.
WATCH = """
import time, ray
ray.init(address="auto", logging_level="ERROR")
count = lambda: sum(node["Alive"] for node in ray.nodes())
before = count()
print("nodes", before, flush=True)
while count() == before:
    time.sleep(0.1)
print("nodes", count(), flush=True)
"""
# A host that loses its power, but for its sshd.
POWER_CUT = "pkill -9 -x raylet; pkill -9 -x gcs_server; pkill -9 python; pkill -9 -f ^ray::; true"
IS_LISTENING = "import socket; socket.create_connection(({address!r}, {port}), timeout=5)"
CREDENTIALS = "[default]\naws_access_key_id = test-key\naws_secret_access_key = test-secret\n"
MAKE_BUCKET = """
import urllib.request
request = urllib.request.Request("http://{endpoint}/bucket", method="PUT")
urllib.request.urlopen(request, timeout=20)
"""
JOB_SERVER = "http://127.0.0.1:8265"
SHORT = ("--pipeline.teacher-training.num-steps", "4", "--pipeline.sparse.num-steps", "4")

pytestmark = [pytest.mark.cluster, pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def hosts(start_hosts: Callable[..., Any]) -> Any:
    """Three machines; a stage takes all of one, so that three at a time are on all of them."""
    return start_hosts()


def test_three_machines_from_ray_up_to_ray_down(
    hosts: Any,
    tiny_study: list[str],
    read_results: Callable[[Path], list[dict[str, Any]]],
) -> None:
    assert hosts.ray_up() == 3
    assert is_listening(hosts, 6379)
    assert not is_listening(hosts, 8265)
    assert not is_listening(hosts, 10001)
    runs = hosts.folder / "shared" / "runs"
    flags = [*tiny_study, "--address", "auto", "--output-dir"]
    study = ["python", "search/run.py", *flags, str(runs / "exec")]
    hosts.ray("exec", str(hosts.file), f"cd segfront && {shlex.join(study)}")
    (run_dir,) = (runs / "exec").iterdir()
    assert {result["node_ip"] for result in read_results(run_dir)} == set(hosts.addresses)

    study = ["python", "segfront/search/run.py", *flags, str(runs / "job"), *SHORT]
    submit = ["ray", "job", "submit", "--address", JOB_SERVER, "--", *study]
    hosts.ray("exec", str(hosts.file), f"RAY_AUTH_MODE=token {shlex.join(submit)}")
    (run_dir,) = (runs / "job").iterdir()
    assert read_results(run_dir)

    run_dir, before = lose_the_head(hosts, [*study[:1], "search/run.py", *flags], runs / "lost")
    assert hosts.ray_up() == 3
    resume = ["python", "search/run.py", "--resume", str(run_dir), "--address", JOB_SERVER]
    hosts.ray("exec", str(hosts.file), f"cd segfront && RAY_AUTH_MODE=token {shlex.join(resume)}")
    assert read_results(run_dir)
    after = read_complete(run_dir)
    assert all(row in after for row in before)

    assert seconds_to_notice_a_cut(hosts) < 15
    hosts.ray_down()


def test_three_machines_share_a_run_in_storage_alone(
    hosts: Any,
    tiny_study: list[str],
    read_results: Callable[[Path], list[dict[str, Any]]],
) -> None:
    assert hosts.ray_up() == 3
    with serve_s3(hosts) as uri:
        study = ["python", "search/run.py", *tiny_study, "--address", "auto", "--output-dir", uri]
        # Each host has a /tmp of its own.
        command = shlex.join([*study, "--cache-dir", "/tmp/segfront-cache"])
        hosts.ray("exec", str(hosts.file), f"cd segfront && {command}")
    seen = hosts.folder / "shared" / "copy"
    hosts.ssh(1, f"cp -r /tmp/segfront-cache/runs {seen}")
    (run_dir,) = seen.glob("*/streets-*")
    assert {result["node_ip"] for result in read_results(run_dir)} == set(hosts.addresses)
    hosts.ray_down()


@contextmanager
def serve_s3(hosts: Any) -> Iterator[str]:
    """Run moto's S3 on the head, which all hosts have the credentials of; yields a bucket's URI."""
    endpoint = f"{hosts.addresses[0]}:5000"
    for number in range(1, len(hosts.addresses) + 1):
        write = f"mkdir -p ~/.aws && printf %s {shlex.quote(CREDENTIALS)} > ~/.aws/credentials"
        hosts.ssh(number, write)
    with subprocess.Popen(
        [hosts.script, "ssh", "1", f"python -m moto.server -H {hosts.addresses[0]} -p 5000"],
        env=hosts.hosts_environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as server:
        while not is_listening(hosts, 5000):
            assert server.poll() is None
        hosts.ssh(1, f"python -c {shlex.quote(MAKE_BUCKET.format(endpoint=endpoint))}")
        try:
            yield f"s3://bucket/runs?scheme=http&endpoint_override={endpoint}&region=us-east-1"
        finally:
            hosts.ssh(1, "pkill -f [m]oto.server")


def is_listening(hosts: Any, port: int) -> bool:
    """Whether the last host reaches a port of the head."""
    connect = shlex.quote(IS_LISTENING.format(address=hosts.addresses[0], port=port))
    answer = hosts.ssh(3, f"python -c {connect} 2> /dev/null && echo yes || echo no")
    return "yes" in answer.split()


def lose_the_head(hosts: Any, study: list[str], folder: Path) -> tuple[Path, list[dict[str, str]]]:
    """Start a study and take the head's power once a pipeline is complete.

    Returns:
        Folder of the run, and its complete pipelines.
    """
    command = f"cd ~/segfront && {shlex.join([*study, str(folder)])}"
    with subprocess.Popen(
        [hosts.script, "ssh", "1", command],
        env=hosts.hosts_environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    ) as driver:
        while not any(map(read_complete, folder.glob("*-*"))):
            assert driver.poll() is None
            time.sleep(0.5)
        hosts.ssh(1, POWER_CUT)
        driver.wait(timeout=60)
    (run_dir,) = folder.iterdir()
    return run_dir, read_complete(run_dir)


def read_complete(run_dir: Path) -> list[dict[str, str]]:
    """Numbers and accuracies of the complete pipelines."""
    rows = importlib.import_module("study_breaker").read_trials(run_dir)
    return [
        {name: row[name] for name in ("trial", "miou", "stage/distilled")}
        for row in rows
        if row["state"] == "complete"
    ]


def seconds_to_notice_a_cut(hosts: Any) -> float:
    """Cut the last host off; returns the time until the head has given it up."""
    command = [hosts.script, "ssh", "1", f"python -c {shlex.quote(WATCH)}"]
    with subprocess.Popen(
        command,
        env=hosts.hosts_environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as watch:
        assert watch.stdout is not None
        assert next(line for line in watch.stdout if line.startswith("nodes")) == "nodes 3\n"
        started = time.monotonic()
        hosts.hosts("cut", "3")
        assert next(line for line in watch.stdout if line.startswith("nodes")) == "nodes 2\n"
        seconds = time.monotonic() - started
    hosts.hosts("mend", "3")
    print(f"a cut link was noticed after {seconds:.1f} s")
    return seconds
