"""A study on a cluster, and who breaks one thing after another while it runs."""

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

RECOVERY_SECONDS = 180.0  # after which a fault counts as not recovered from
RETURN_SECONDS = 180.0  # for a node to come back
START_SECONDS = 180.0  # for a driver to begin with the study
CHOICE_SECONDS = 120.0  # for a stage to run where the fault is to hit
NODE_FAULTS: tuple[FaultKind, ...] = ("raylet", "notice", "link")


class Victim(NamedTuple):
    """A stage that a fault cut short.

    Attributes:
        stage: Its folder in the store.
        lost_seconds: CPU time since its last checkpoint, or since its beginning.
    """

    stage: str
    lost_seconds: float


@dataclass(kw_only=True, slots=True)
class Fault:
    """What was broken, and what came of it.

    Attributes:
        kind: Of the fault.
        node: Where.
        at: Seconds since the study began.
        victims: Stages cut short.
        recovery_seconds: Until all of them were worked on again, or done; None: not in time.
    """

    kind: FaultKind
    node: int
    at: float
    victims: list[Victim] = field(default_factory=list)
    recovery_seconds: float | None = None

    @property
    def lost_seconds(self) -> float:
        """Work lost in all stages."""
        return sum(victim.lost_seconds for victim in self.victims)


@dataclass(kw_only=True, slots=True)
class Session:
    """A study on a cluster, driver after driver.

    Attributes:
        cluster: Where it runs.
        folder: Takes the run and what the drivers print.
        flags: Of search/run.py.
        num_pipelines: Of the study.
        most_drivers: After which something else than a fault must be wrong.
        drivers: Processes that were started for it, the last one running.
        started: `time.time` of the first.
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
        """Folder of the run, once there is one."""
        return next(iter(self.folder.glob("runs/*-*")))

    @property
    def log(self) -> Path:
        """What the drivers print."""
        return self.folder / "driver.log"

    @property
    def is_running(self) -> bool:
        """Whether its driver lives."""
        return self.drivers[-1].poll() is None

    def start(self) -> None:
        """Start the study and wait for its first stages.

        Raises:
            RuntimeError: It ended at once, or does not begin.
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
            RuntimeError: There were too many.
        """
        if len(self.drivers) >= self.most_drivers:
            raise RuntimeError(f"{len(self.drivers)} drivers ended: {self.log.read_text()}")
        self._start("--resume", str(self.run_dir), "--no-dashboard")

    def keep_up(self) -> bool:
        """Start the next driver if the last one ended before the study did.

        Returns:
            Whether the study goes on.
        """
        if self.is_running:
            return True
        if self.count_ended() >= self.num_pipelines:
            return False
        self.resume()
        return True

    def end(self) -> None:
        """Kill a driver that still runs."""
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
                driver.wait()

    def count_ended(self) -> int:
        """Pipelines that are over, as the results say."""
        return sum(row["state"] != "running" for row in read_trials(self.run_dir))

    def _start(self, *arguments: str) -> None:
        self.drivers.append(self.cluster.start_driver(arguments, self.log))


class Breaker:
    """Breaks one thing after another while a study runs.

    Args:
        session: The study.
        watch: Sees who works on what.
        cut_seconds: Time that a link stays cut.
        pause_seconds: Longest random time between the moment that a fault is due and the fault.
        seed: Of kinds, places and moments.
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
        """Yield every fault, once its stages are worked on again.

        They come at equal shares of the pipelines; one that finds nothing to break is left out.

        Args:
            number: Of faults.
            num_pipelines: Over which they are spread; default: all of the study.

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
        """Break one thing and wait until its stages are worked on again; None: nothing to break."""
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
        # A process may have gone over to its next stage before it was hit.
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
        """Have all worker nodes there before one of them is taken away."""
        nodes = range(HEAD + 1, NUM_NODES + 1)
        if kind in NODE_FAULTS and not wait_for(
            lambda: all(self._cluster.raylet(node) for node in nodes), RETURN_SECONDS
        ):
            raise RuntimeError(f"a node did not come back within {RETURN_SECONDS:g} s")

    def _choose_attempt(self, kind: FaultKind) -> Attempt | None:
        """A running stage that the fault is to hit; None if there is none for long."""
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
            elif kind == "notice":
                _shut_down(raylet)
            else:
                self._cluster.set_link(node, is_up=False)
                time.sleep(self._cut_seconds)
                self._cluster.set_link(node, is_up=True)
            # Ray has given up a node that was cut off, whose raylet ends once it hears of that.
            wait_for(lambda: self._cluster.raylet(node) != raylet, RETURN_SECONDS)
            self._cluster.restart(node)


def read_trials(run_dir: Path) -> list[dict[str, str]]:
    """Rows of trials.csv; none while there is no such file."""
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
    """Ask everything of a node to end, as the system of a machine does that is taken back."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(raylet)
        for each in [*process.children(recursive=True), process]:
            with contextlib.suppress(psutil.NoSuchProcess):
                each.terminate()
