"""A real `ray up` of cluster.local.yaml on three hosts within one machine.

The hosts are network, process and mount namespaces. A script makes them, which is not part of the
project; it needs root and supports these commands:

  SCRIPT up N --bin DIR    start hosts with sshd, in network namespaces h1..hN, with DIR and its
                           neighbouring folders; print "hI ADDRESS" for each and "key FILE"
  SCRIPT ssh I COMMAND     run a command on host I
  SCRIPT cut I | mend I    cut or restore the link of host I
  SCRIPT down              end all of them

The script keeps the hosts' private files in the folder that $SEGFRONT_HOSTS names. The hosts share
the disk except for /tmp, /root and /dev/shm, and they can reach only each other. Therefore each of
them finds the packages of this Python environment in ~/segfront-venv instead of downloading them.
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
JOIN_SECONDS = 240.0  # until the workers, which the head sets up one after another, have joined
LEAVE_SECONDS = 120.0  # until the workers' Ray has ended after `ray down`

# Prepares a host for `ray up`: the shell's default start-up file, and the installed packages.
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
# In pip's configuration, "no-build-isolation = false" turns the isolation off.
printf '[global]\nno-index = true\n[install]\nno-build-isolation = false\n' > ~/.config/pip/pip.conf
"""


def find_obstacle(script: str | None) -> str:
    """Say why hosts cannot be made here; the text is empty if they can.

    Args:
        script: Value of the environment variable `SCRIPT_VARIABLE`.
    """
    if not script:
        return f"{SCRIPT_VARIABLE} names no script that makes hosts"
    if not os.access(script, os.X_OK):
        return f"{SCRIPT_VARIABLE} names {script}, which is not executable"
    if os.geteuid() != 0:
        return "making hosts within a machine requires root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"{', '.join(missing)} must be installed (from iproute2, rsync, openssh-server)"
    command = ["unshare", "--net", "--pid", "--mount", "--uts", "--fork", "true"]
    if subprocess.run(command, capture_output=True).returncode:
        return "root is not allowed to make namespaces here"
    return ""


def edit_cluster_file(
    text: str, *, addresses: list[str], user: str, key: Path, shared: Path
) -> str:
    """Fill in the five values of cluster.local.yaml as its user does.

    Args:
        text: Text of the file.
        addresses: Addresses of the hosts, the head first.
        user: User name for ssh.
        key: Private key for ssh.
        shared: Folder that all hosts share.

    Raises:
        ValueError: One of the example values does not occur exactly once in the file.
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
            raise ValueError(f"cluster.local.yaml must contain {example!r} exactly once")
        text = text.replace(example, value)
    return text


@dataclass(kw_only=True, slots=True)
class HostCluster:
    """A cluster of hosts.

    Attributes:
        script: Script that makes the hosts.
        folder: Folder that all of them share; it must not be below /tmp, /root or /dev/shm.
        num_hosts: Number of hosts, including the head.
        num_cpus: Number of cores that Ray uses on each host; None: all that it finds.
        addresses: Addresses of the hosts, the head first.
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
        """Environment variables of the script, which makes new hosts for every cluster."""
        return {**os.environ, "SEGFRONT_HOSTS": str(self.folder / "hosts")}

    def start_hosts(self) -> None:
        """Make the hosts, prepare them, and write their cluster file.

        Raises:
            RuntimeError: A command failed; the message contains its output.
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
            The number of active nodes in the end.

        Raises:
            RuntimeError: A command failed; the message contains its output.
        """
        self.ray("get-auth-token", "--generate")
        self.ray("up", "-y", str(self.file))
        deadline = time.monotonic() + JOIN_SECONDS
        while (number := self.count_nodes()) < self.num_hosts and time.monotonic() < deadline:
            time.sleep(2.0)
        return number

    def count_nodes(self) -> int:
        """Count the active nodes that `ray status` lists; 0 before the autoscaler's first report.

        Raises:
            RuntimeError: The command failed, or its output is not understood.
        """
        status = self.ray("exec", str(self.file), "ray status")
        if "No cluster status" in status:
            return 0
        active = re.search(r"^Active:\n((?: .*\n)+)", status.replace("\r", ""), re.MULTILINE)
        if active is None:
            raise RuntimeError(f"ray status did not list the nodes: {status}")
        return sum(int(count) for count in re.findall(r"^ +(\d+) \S", active[1], re.MULTILINE))

    def ray_down(self) -> float:
        """End the cluster.

        Returns:
            Seconds until no host runs Ray any longer.

        Raises:
            RuntimeError: A host still runs Ray after `LEAVE_SECONDS`.
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
        """Run `ray` on this machine, with its own home folder for the token.

        Returns:
            The output of the command.

        Raises:
            RuntimeError: The command failed.
        """
        environment = {
            **os.environ,
            "HOME": str(self.folder / "home"),
            "RAY_TMPDIR": str(self.folder),  # the state of `ray up` for a cluster of this name
            "RAY_UP_enable_autoscaler_v2": "0",
            "RAY_USAGE_STATS_ENABLED": "0",
        }
        command = [str(Path(sys.executable).parent / "ray"), *arguments]
        return _run(command, environment)

    def ssh(self, number: int, command: str) -> str:
        """Run a command on a host; returns and raises the same as `ray`."""
        return self.hosts("ssh", str(number), command)

    def hosts(self, *arguments: str) -> str:
        """Run the script; returns and raises the same as `ray`."""
        return _run([str(self.script), *arguments], self.hosts_environment)


def _run(command: list[str], environment: dict[str, str]) -> str:
    ended = subprocess.run(
        command,
        cwd=ROOT,  # file_mounts are relative to this folder
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
