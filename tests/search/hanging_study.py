"""A study in a real local Ray whose stages are stand-ins; every sparse stage of one lambda hangs.

Run as a script by test_ray_session.py, so that Ray ships `make` to its workers by value. Arguments:
folder of the run, seconds after which a stage counts as hung. Prints what came of it as JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import psutil
from rich.console import Console

from search.config import save_config
from search.on_ray import session as ray_session
from search.on_ray.allotment import allot
from search.on_ray.failures import WorkerFailures
from search.on_ray.progress_callback import BoardCallback
from search.on_ray.searcher import PipelineSearcher
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.study import PipelineStudy
from search.recipes import streets
from search.run_files.progress import ProgressBoard, ProgressDisplay
from search.space import make_space
from trainables.chain import make_settings
from trainables.ranges import FloatRange

folder = Path(sys.argv[1])


def listening():
    """Addresses, as in /proc/net/tcp, where this process and those that it started listen."""
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    addresses = {row[9]: row[1].partition(":")[0] for row in rows if row[3] == "0A"}
    parents, own = {}, {os.getpid()}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    for _ in range(9):
        own |= {process for process, parent in parents.items() if parent in own}
    found = set()
    for process in own:
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{process}/fd").iterdir():
                found.add(addresses.get(link.readlink().name.removeprefix("socket:[").strip("]")))
    return sorted(found - {None})


def ask(url):
    try:
        return urllib.request.urlopen(url, timeout=20).status
    except urllib.error.HTTPError as error:
        return error.code


def watch_names(dashboard, seen, is_over):
    """Note the actors' names in the dashboard, and the processes', which its node pages show."""
    token = Path("~/.ray/auth_token").expanduser().read_text().strip()
    request = urllib.request.Request(
        f"http://{dashboard}/api/v0/actors", headers={"Authorization": f"Bearer {token}"}
    )
    while not is_over.wait(0.3):
        with urllib.request.urlopen(request, timeout=60) as answer:
            actors = json.load(answer)["data"]["result"]["result"]
        seen.update(actor["class_name"] for actor in actors)
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                seen.update(process.cmdline()[:1])


original = ray_session.make_trainable


def make(config, worker):
    def run_trial(trial):
        import trainables.ray_pipeline as adapter
        from trainables.chain import flatten_chain
        from trainables.context import Progress
        from trainables.pipeline import StageResult
        from trainables.process.watchdog import note_progress

        def run_stage(config, chain, store, context, *arguments, **keywords):
            name = chain[-1].stage
            cost = {"num_params": 500.0, "macs": 9.0}
            latency = {"latency_ms": 5.0, "latency_p95_ms": 5.5}
            revealed = {"pruned": cost, "latency": latency, "distilled": {"miou": 0.5}}
            metrics = revealed.get(name, {**cost, "miou": 0.6})
            result = StageResult(
                metrics=metrics, stages={name: name}, seconds={name: 1.0}, network=name
            )
            sparsity_lambda = flatten_chain(chain).get("sparse.sparsity_lambda")
            if sparsity_lambda is None or name == "latency":
                return result
            with (folder / "attempts").open("a") as file:
                file.write(f"{name} {sparsity_lambda:g}\n")
            for step in range(4):
                note_progress(f"step {step} of 9")
            context.report(Progress(name, 3, 9, loss=0.75))
            context.report(Progress(name, 9, 9, miou=0.5))
            if name == "sparse" and sparsity_lambda == 1e-3:
                time.sleep(600)
            return result

        adapter.run_stage = run_stage
        original(config, worker)(trial)

    return run_trial


ray_session.make_trainable = make
first = make_settings(lr=2e-3)
points = (
    {**first, "sparse.sparsity_lambda": 1e-3},
    first,
    {**first, "distilled.dkd.temperature": 2.0},
)
config = streets()
latency = replace(config.pipeline.latency, max_seconds=0.5)
config = replace(
    config,
    num_pipelines=3,
    first_points=points,
    continuation=False,
    space=make_space(lr=FloatRange(low=1e-3, high=4e-3, log=True)),
    stop_hopeless=False,
    stall_seconds=float(sys.argv[2]),
    pipeline=replace(config.pipeline, latency=latency),
)
save_config(config, folder / "config.json")
study = PipelineStudy(config, folder)
console = Console(file=sys.stderr)
with ray_session.ray_session(None, dashboard=True) as dashboard:
    host, status = dashboard.partition(":")[0], ask(f"http://{dashboard}/api/version")
    board = ProgressBoard(study)
    with ProgressDisplay(board, console) as display:
        failures = WorkerFailures(folder)
        callback = BoardCallback(board, display, failures, lambda: False)
        dispatcher = Dispatcher(study, Places(count=2), on_change=display.note)
        searcher = PipelineSearcher(dispatcher, explain_error=failures.explain)
        resources = allot(config, *ray_session.count_devices())
        names, is_over = set(), threading.Event()
        watch = threading.Thread(target=watch_names, args=(dashboard, names, is_over))
        watch.start()
        ray_session.run_tune(config, folder, resources, searcher, callback)
        is_over.set()
        watch.join()
    addresses = listening()
outcomes = [[record.state, record.reason] for record in study.records.values()]
answer = {"outcomes": outcomes, "dashboard": [host, status], "addresses": addresses}
print(json.dumps({**answer, "names": sorted(names)}))
