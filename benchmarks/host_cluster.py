"""Three machines within one: a real `ray up` of cluster.local.yaml, for benchmarks and tests.

The machines are network, process and mount namespaces that a script makes, which is not part of the
project; it needs root and understands

  SCRIPT up N --bin DIR    start hosts with sshd, in network namespaces h1..hN, with DIR and what
                           lies beside it; prints "hI ADDRESS" for each and "key FILE"
  SCRIPT ssh I COMMAND     run a command on host I
  SCRIPT cut I | mend I    take the link of host I down | up
  SCRIPT down              end all of them

and keeps what is theirs alone in the folder that $SEGFRONT_HOSTS names.
The hosts share the disk but for /tmp, /root and /dev/shm, and reach nothing but each other, so that
each finds the packages of this Python environment in ~/segfront-venv instead of downloading them.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
SCRIPT_VARIABLE = "SEGFRONT_HOSTS_SCRIPT"
TOOLS = ("ip", "rsync", "ssh", "sshd")
JOIN_SECONDS = 240.0  # for the workers, which the head sets up one after another
LEAVE_SECONDS = 120.0  # for the workers' Ray after `ray down`

# A machine as `ray up` finds it: the shell's default start-up file, and the packages installed.
PREPARATION = """
set -e
cp /etc/skel/.bashrc ~/.bashrc
{python} -m venv --without-pip ~/segfront-venv
echo {packages} > "$(echo ~/segfront-venv/lib/python*/site-packages)/packages.pth"
for name in pip ray; do
  sed "1s|.*|#!$HOME/segfront-venv/bin/python|" {scripts}/$name > ~/segfront-venv/bin/$name
  chmod +x ~/segfront-venv/bin/$name
done
mkdir -p ~/.config/pip
# pip reads "no-build-isolation" the other way round: false means none.
printf '[global]\nno-index = true\n[install]\nno-build-isolation = false\n' > ~/.config/pip/pip.conf
"""


def find_obstacle(script: str | None) -> str:
    """Say why hosts cannot be made here; empty if they can.

    Args:
        script: What the environment variable `SCRIPT_VARIABLE` says.
    """
    if not script:
        return f"{SCRIPT_VARIABLE} names no script that makes hosts"
    if not os.access(script, os.X_OK):
        return f"{SCRIPT_VARIABLE}: {script} cannot be run"
    if os.geteuid() != 0:
        return "hosts within a machine need root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)}: not installed (iproute2, rsync, openssh-server)"
    command = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "true"]
    if subprocess.run(command, capture_output=True).returncode:
        return "root may make no namespaces here"
    return ""


def edit_cluster_file(
    text: str, *, addresses: list[str], user: str, key: Path, shared: Path
) -> str:
    """Fill in the five values of cluster.local.yaml as its user does.

    Args:
        text: Of the file.
        addresses: Of the machines, the head first.
        user: For ssh.
        key: Private key for ssh.
        shared: Folder that all machines see.

    Raises:
        ValueError: The file does not have one of the example values once, where it is expected.
    """
    head, *workers = addresses
    for example, value in (
        ("head_ip: 192.0.2.10 ", f"head_ip: {head} "),
        ("worker_ips: [192.0.2.11, 192.0.2.12] ", f"worker_ips: [{', '.join(workers)}] "),
        ("ssh_user: ubuntu ", f"ssh_user: {user} "),
        ("ssh_private_key: ~/.ssh/id_ed25519 ", f"ssh_private_key: {key} "),
        ("SEGFRONT_SHARED=/mnt/segfront'", f"SEGFRONT_SHARED={shared}'"),
    ):
        if text.count(example) != 1:
            raise ValueError(f"cluster.local.yaml must have {example!r} once")
        text = text.replace(example, value)
    return text


@dataclass(kw_only=True, slots=True)
class HostCluster:
    """A cluster of hosts.

    Attributes:
        script: Makes the hosts.
        folder: Shared by all of them: not below /tmp, /root or /dev/shm.
        num_hosts: The head among them.
        num_cpus: Cores that Ray is told of on each host; None: as many as it finds.
        addresses: Of the hosts, the head first.
    """

    script: Path
    folder: Path
    num_hosts: int = 3
    num_cpus: int | None = None
    addresses: list[str] = field(default_factory=list)

    @property
    def file(self) -> Path:
        """The edited cluster.local.yaml."""
        return self.folder / "cluster.local.yaml"

    @property
    def hosts_environment(self) -> dict[str, str]:
        """For the script: new machines for every cluster."""
        return {**os.environ, "SEGFRONT_HOSTS": str(self.folder / "hosts")}

    def start_hosts(self) -> None:
        """Make the hosts, prepare them, and write the cluster file for them.

        Raises:
            RuntimeError: A command failed; says what it printed.
        """
        scripts = Path(sys.executable).parent
        printed = self.hosts("up", str(self.num_hosts), "--bin", str(scripts))
        self.addresses = re.findall(r"^h\d+ (\S+)$", printed, re.MULTILINE)
        (key,) = re.findall(r"^key (.+)$", printed, re.MULTILINE)
        preparation = PREPARATION.format(
            python=shlex.quote(sys.executable),
            packages=shlex.quote(sysconfig.get_path("purelib")),
            scripts=shlex.quote(str(scripts)),
        )
        for number in range(1, self.num_hosts + 1):
            self.ssh(number, preparation)
        (self.folder / "home").mkdir()
        shared = self.folder / "shared"
        shared.mkdir()
        text = edit_cluster_file(
            (ROOT / self.file.name).read_text(),
            addresses=self.addresses, user="root", key=Path(key), shared=shared,
        )  # fmt: skip
        if self.num_cpus is not None:
            text = re.sub(r"ray start (?=--)", f"ray start --num-cpus={self.num_cpus} ", text)
        self.file.write_text(text)

    def ray_up(self) -> int:
        """Start the cluster as docs/cluster.md says and wait for its workers.

        Returns:
            Nodes that there are in the end.

        Raises:
            RuntimeError: A command failed; says what it printed.
        """
        self.ray("get-auth-token", "--generate")
        self.ray("up", "-y", str(self.file))
        deadline = time.monotonic() + JOIN_SECONDS
        while (number := self.count_nodes()) < self.num_hosts and time.monotonic() < deadline:
            time.sleep(2.0)
        return number

    def count_nodes(self) -> int:
        """Active nodes, as `ray status` on the head lists them; 0 before its autoscaler has looked.

        Raises:
            RuntimeError: It failed, or says something unknown.
        """
        status = self.ray("exec", str(self.file), "ray status")
        if "No cluster status" in status:
            return 0
        active = re.search(r"^Active:\n((?: .*\n)+)", status.replace("\r", ""), re.MULTILINE)
        if active is None:
            raise RuntimeError(f"ray status lists no nodes: {status}")
        return sum(int(count) for count in re.findall(r"^ +(\d+) \S", active[1], re.MULTILINE))

    def ray_down(self) -> float:
        """End the cluster.

        Returns:
            Seconds until no host runs Ray any more.

        Raises:
            RuntimeError: It still runs after `LEAVE_SECONDS`.
        """
        started = time.monotonic()
        self.ray("down", "-y", str(self.file))
        for number in range(1, self.num_hosts + 1):
            while self.ssh(number, "pgrep -x raylet || true").strip():
                if time.monotonic() > started + LEAVE_SECONDS:
                    raise RuntimeError(f"host {number} still runs Ray after ray down")
                time.sleep(1.0)
        return time.monotonic() - started

    def stop_hosts(self) -> None:
        """End the hosts and everything on them."""
        self.hosts("down")

    def ray(self, *arguments: str) -> str:
        """Run `ray` on this machine, with a home of its own for the token.

        Returns:
            What it printed.

        Raises:
            RuntimeError: It failed.
        """
        environment = {
            **os.environ,
            "HOME": str(self.folder / "home"),
            "RAY_TMPDIR": str(self.folder),  # what `ray up` knows of a cluster of this name
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        command = [str(Path(sys.executable).parent / "ray"), *arguments]
        return _run(command, environment)

    def ssh(self, number: int, command: str) -> str:
        """Run a command on a host; see `ray` for what is returned and raised."""
        return self.hosts("ssh", str(number), command)

    def hosts(self, *arguments: str) -> str:
        """Run the script; see `ray` for what is returned and raised."""
        return _run([str(self.script), *arguments], self.hosts_environment)


def _run(command: list[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(
        command,
        cwd=ROOT,  # file_mounts are relative to it
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    if ended.returncode:
        raise RuntimeError(f"{shlex.join(command)} ended with {ended.returncode}: {ended.stdout}")
    return ended.stdout
