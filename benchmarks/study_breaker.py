"""Run a study on a cluster and break one thing after another while it runs."""

from __future__ import annotations

import contextlib
import csv
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import psutil
from fault_clusters import HEAD, NUM_NODES, FaultCluster, FaultKind, wait_for
from stage_watch import Attempt, StageWatch

RECOVERY_SECONDS = 180.0  # after this time a fault counts as not recovered
RETURN_SECONDS = 180.0  # limit for a node to come back
START_SECONDS = 180.0  # limit for a driver to start the study
CHOICE_SECONDS = 120.0  # limit until a stage runs where the fault should hit
NODE_FAULTS: tuple[FaultKind, ...] = ("raylet", "preemption", "link")


class Victim(NamedTuple):
    """A stage that a fault interrupted.

    Attributes:
        stage: Folder of the stage in the store.
        lost_seconds: CPU seconds since its last checkpoint, or since its start.
    """

    stage: str
    lost_seconds: float


@dataclass(kw_only=True, slots=True)
class Fault:
    """A fault and its effect.

    Attributes:
        kind: Kind of the fault.
        node: Node that it hit.
        at: Seconds from the start of the study to the fault.
        victims: Stages that it interrupted.
        recovery_seconds: Seconds until all of them had resumed or were finished; None if this took
            too long.
    """

    kind: FaultKind
    node: int
    at: float
    victims: list[Victim] = field(default_factory=list)
    recovery_seconds: float | None = None

    @property
    def lost_seconds(self) -> float:
        """The work that was lost in all stages."""
        return sum(victim.lost_seconds for victim in self.victims)


@dataclass(kw_only=True, slots=True)
class Session:
    """A study on a cluster, with one driver after another.

    Attributes:
        cluster: Cluster on which it runs.
        folder: Folder for the run and for the output of the drivers.
        flags: Flags of search/run.py.
        num_pipelines: Number of pipelines of the study.
        most_drivers: Largest number of drivers; if more end, something other than a fault must be
            wrong.
        drivers: Processes of the drivers that were started; only the last one may still run.
        started: `time.time` when the first driver was started.
    """

    cluster: FaultCluster
    folder: Path
    flags: Sequence[str]
    num_pipelines: int
    most_drivers: int
    drivers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    started: float = 0.0

    @property
    def run_dir(self) -> Path:
        """The folder of the run, once it exists."""
        return next(iter(self.folder.glob("runs/*-*")))

    @property
    def log(self) -> Path:
        """The file with the output of the drivers."""
        return self.folder / "driver.log"

    @property
    def is_running(self) -> bool:
        """Whether the last driver is still running."""
        return self.drivers[-1].poll() is None

    def start(self) -> None:
        """Start the study and wait for its first stages.

        Raises:
            RuntimeError: The study ended at once or did not start in time.
        """
        self.folder.mkdir()
        self.started = time.time()
        self._start(*self.flags, "--output-dir", str(self.folder / "runs"))
        begun = wait_for(
            lambda: not self.is_running or any(self.folder.glob("runs/*-*/stages/.locks/*")),
            START_SECONDS,
        )
        if not begun or not self.is_running:
            raise RuntimeError(f"the study did not start: {self.log.read_text()}")

    def resume(self) -> None:
        """Start the next driver.

        Raises:
            RuntimeError: There were too many drivers.
        """
        if len(self.drivers) >= self.most_drivers:
            raise RuntimeError(f"{len(self.drivers)} drivers ended: {self.log.read_text()}")
        self._start("--resume", str(self.run_dir), "--no-dashboard")

    def keep_up(self) -> bool:
        """Start the next driver if the last one ended before the study did.

        Returns:
            Whether the study is still running.
        """
        if self.is_running:
            return True
        if self.count_ended() >= self.num_pipelines:
            return False
        self.resume()
        return True

    def end(self) -> None:
        """Kill a driver that is still running."""
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
                driver.wait()

    def count_ended(self) -> int:
        """Count the pipelines that have ended, as in the results files."""
        return sum(row["state"] != "running" for row in read_trials(self.run_dir))

    def _start(self, *arguments: str) -> None:
        self.drivers.append(self.cluster.start_driver(arguments, self.log))


class Breaker:
    """A breaker that causes one fault after another while a study runs.

    Args:
        session: Study to disturb.
        watch: Watch that says which process works on which stage.
        cut_seconds: Time for which a link stays cut.
        pause_seconds: Longest random time between the moment that a fault is due and the fault.
        seed: Seed of the kinds, the places and the times of the faults.
    """

    def __init__(
        self,
        session: Session,
        watch: StageWatch,
        *,
        cut_seconds: float,
        pause_seconds: float,
        seed: int,
    ) -> None:
        self._session = session
        self._cluster = session.cluster
        self._watch = watch
        self._cut_seconds = cut_seconds
        self._pause_seconds = pause_seconds
        self._random = random.Random(seed)

    def break_all(self, number: int, num_pipelines: int | None = None) -> Iterator[Fault]:
        """Yield every fault, once its stages have resumed.

        The faults come at equal shares of the pipelines; a fault is omitted if there is nothing to
        break.

        Args:
            number: Number of faults.
            num_pipelines: Number of pipelines over which they are spread; default: all pipelines of
                the study.

        Raises:
            RuntimeError: A node does not come back.
        """
        kinds, session = self._cluster.kinds, self._session
        plan = [kinds[index % len(kinds)] for index in range(number)]
        self._random.shuffle(plan)
        for index, kind in enumerate(plan):
            due = index * (num_pipelines or session.num_pipelines) // number
            while session.keep_up() and session.count_ended() < due:
                time.sleep(0.5)
            time.sleep(self._random.uniform(0.0, self._pause_seconds))
            fault = self._break(kind)
            if fault is not None:
                yield fault
            elif not session.keep_up():
                return

    def _break(self, kind: FaultKind) -> Fault | None:
        """Cause a fault and wait until its stages have resumed; None if nothing can break."""
        self._await_nodes(kind)
        chosen = self._choose_attempt(kind)
        if chosen is None:
            return None
        node = HEAD if kind == "driver" else self._cluster.node_of(chosen.pid) or HEAD
        if kind == "worker":
            pids = {chosen.pid}
        elif kind == "driver":
            pids = {attempt.pid for attempt in self._watch.attempts}
        else:
            pids = {pid for pid in psutil.pids() if self._cluster.node_of(pid) == node}
        now, hit = time.time(), [a for a in self._watch.working() if a.pid in pids]
        self._strike(kind, node, chosen)
        # A process may have started its next stage before the fault hit it.
        hit += [a for a in self._watch.attempts if a.began > now and a.pid in pids and not a.found]

        def again() -> list[float | None]:
            return [self._watch.taken_up_at(a, max(now, a.began)) for a in hit]

        recovered = wait_for(lambda: all(again()), RECOVERY_SECONDS)
        return Fault(
            kind=kind,
            node=node,
            at=now - self._session.started,
            victims=[
                Victim(attempt.stage, attempt.unsaved_seconds)
                for attempt in hit
                if not self._watch.has_ended_well(attempt)
            ],
            recovery_seconds=max([0.0, *(at - now for at in again() if at)]) if recovered else None,
        )

    def _await_nodes(self, kind: FaultKind) -> None:
        """Wait until all worker nodes are present, before one of them is broken."""
        nodes = range(HEAD + 1, NUM_NODES + 1)
        if kind in NODE_FAULTS and not wait_for(
            lambda: all(self._cluster.raylet(node) for node in nodes), RETURN_SECONDS
        ):
            raise RuntimeError(f"a node did not come back within {RETURN_SECONDS:g} s")

    def _choose_attempt(self, kind: FaultKind) -> Attempt | None:
        """Choose a running stage that the fault should hit; None if none runs for a long time."""
        deadline = time.monotonic() + CHOICE_SECONDS
        while self._session.keep_up() and time.monotonic() < deadline:
            working = self._watch.working()
            if kind in NODE_FAULTS:
                working = [a for a in working if self._cluster.node_of(a.pid) not in (None, HEAD)]
            if working and self._watch.driver() is not None:
                return self._random.choice(working)
            time.sleep(0.1)
        return None

    def _strike(self, kind: FaultKind, node: int, chosen: Attempt) -> None:
        if kind == "worker":
            _kill(chosen.pid)
        elif kind == "driver":
            _kill(self._watch.driver())
            self._session.drivers[-1].wait()
            self._session.resume()
        else:
            raylet = self._cluster.raylet(node)
            if kind == "raylet":
                _kill(raylet)
            elif kind == "preemption":
                _shut_down(raylet)
            else:
                self._cluster.set_link(node, is_up=False)
                time.sleep(self._cut_seconds)
                self._cluster.set_link(node, is_up=True)
            # Ray has declared a node dead whose link was cut; its raylet ends once it learns of
            # this.
            wait_for(lambda: self._cluster.raylet(node) != raylet, RETURN_SECONDS)
            self._cluster.restart(node)


def read_trials(run_dir: Path) -> list[dict[str, str]]:
    """Read the rows of trials.csv; there are none while the file does not exist."""
    path = run_dir / "trials.csv"
    if not path.exists():
        return []
    with path.open() as file:
        return list(csv.DictReader(file))


def _kill(pid: int | None) -> None:
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _shut_down(raylet: int | None) -> None:
    """Terminate all processes of a node, as the system of a preempted machine does."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(raylet)
        for each in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
