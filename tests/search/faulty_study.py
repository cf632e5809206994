"""A study in a real local Ray whose workers meet one fault after the other.

Run as a script by test_faults.py, so that Ray ships `make` to its workers by value. Argument: an
empty folder. Runs the pipelines that should come through once without Ray and without faults, then
the study, and prints what came of both as JSON.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from search.command_line import parse_arguments
from search.on_ray import session as ray_session
from search.on_ray.allotment import TrialResources
from search.on_ray.failures import WorkerFailures
from search.on_ray.progress_callback import BoardCallback
from search.on_ray.searcher import PipelineSearcher
from search.pipelines import retries
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.places import Places
from search.pipelines.study import PipelineStudy
from search.run_files.progress import ProgressBoard, ProgressDisplay
from search.run_files.results import write_trials
from search.run_files.summary import print_summary
from search.space import make_space
from trainables.artifacts.store import ArtifactStore
from trainables.chain import build_chain, make_settings
from trainables.context import StageContext
from trainables.pipeline import run_baseline, run_pipeline
from trainables.process.device_lock import DeviceLock
from trainables.ranges import FloatRange

folder = Path(sys.argv[1])
TINY = shlex.split("""
    --pipeline.data.size 64 96 --pipeline.data.num-samples 8
    --pipeline.data.augmentation.crop-size 64 64
    --pipeline.latency.max-seconds 0.1 --pipeline.teacher.name dual_branch
    --pipeline.teacher.backbone tu-resnet18 --pipeline.teacher.width 0.125
    --pipeline.student.width 0.125 --pipeline.teacher-training.num-steps 3
    --pipeline.dense.num-steps 3 --pipeline.sparse.num-steps 3 --pipeline.distil.num-steps 3
    --checkpoint-seconds 1e-6
""")
FAULTS = {  # by stage: one after the other, each in an attempt of its own
    "teacher": ["kill at step 2"],
    "dense": ["kill at step 2"],
    "sparse-lambda-1e-05": ["kill at step 2", "cut the images off at step 2"],
    "pruned-lambda-1e-05-p-0.5-local": ["kill after pruned"],
    "latency-lambda-1e-05-p-0.3-local": ["kill after latency"],
    "distilled-0": ["kill at step 2"],
    "distilled-1": ["raise at step 2"],
    "distilled-2": ["run out of memory", "run out of memory"],
    "distilled-3": ["damage the images"],
    "distilled-4": ["yield NaN"],
    "distilled-5": ["damage the state at step 2"],
    "distilled-6": ["fill the disk at step 2"],
    "distilled-7": ["find no memory at step 2"],
    "distilled-8": ["hang at step 2"],
}
STALL_SECONDS = 20.0
original = ray_session.make_trainable


def make(config, worker):
    def run_trial(trial):
        import errno
        import os
        import signal
        import time

        import torch

        from trainables import stages
        from trainables.distillers import TeachingLoss
        from trainables.learning import training
        from trainables.process import watchdog
        from trainables.ray_pipeline import name_trial
        from trainables.stages import distilled
        from trainables.stages import latency as timed

        name = name_trial(trial)
        with (folder / "met").open("a+") as file:
            file.seek(0)
            num_met = file.read().splitlines().count(name)
        fault = "".join(FAULTS.get(name, [])[num_met : num_met + 1])

        def meet():
            with (folder / "met").open("a") as file:
                file.write(f"{name}\n")

        def find_images():
            found = worker.cache_dir.glob("*-train-*/samples.uint8")
            return next(path for path in found if path.parent.suffix != ".tmp")

        def kill():
            os.kill(os.getpid(), signal.SIGKILL)

        def note_progress(place):
            watchdog.note_progress(place)
            if fault.endswith("at step 2") and place.startswith("step 2 of"):
                meet()
                break_training()

        def break_training():
            if fault.startswith("kill"):
                kill()
            elif fault.startswith("cut"):
                os.truncate(find_images(), 0)
            elif fault.startswith("damage"):
                os.truncate(states[-1], states[-1].stat().st_size // 2)
                kill()
            elif fault.startswith("fill"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(states[-1]))
            elif fault.startswith("find no memory"):
                raise MemoryError
            elif fault.startswith("hang"):
                time.sleep(600)
            else:
                raise RuntimeError("no such kernel")

        def save_state(path, *others):
            save(path, *others)
            states.append(path)

        def patch(stage, last):
            compute = stage.compute

            def meet_fault(*arguments):
                if fault == "run out of memory" and last == "distilled":
                    meet()
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
                result = compute(*arguments)
                if fault == f"kill after {last}":
                    meet()
                    kill()
                return result

            stage.compute = meet_fault
            return stage, compute

        states, save = [], training.save_training_state
        training.note_progress, training.save_training_state = note_progress, save_state
        classes = {"pruned": stages.pruned.PrunedStage, "latency": timed.ArchitectureLatency}
        classes["distilled"] = distilled.DistilledStage
        patched = [patch(stage, last) for last, stage in classes.items()]
        compute_total = TeachingLoss.compute_total
        if fault == "yield NaN":
            meet()
            nothing = lambda _, lesson: lesson.student_logits.sum() * torch.nan  # noqa: E731
            TeachingLoss.compute_total = nothing
        if fault == "damage the images":
            meet()
            with find_images().open("r+b") as file:  # others are reading it
                content = file.read()
                file.seek(0)
                file.write(bytes(255 - byte for byte in content))
        try:
            original(config, worker)(trial)
        finally:
            TeachingLoss.compute_total = compute_total
            training.save_training_state = save
            for stage, compute in patched:
                stage.compute = compute

    return run_trial


first = make_settings(lr=2e-3)
points = (
    first,
    {**first, "distilled.dkd.temperature": 2.0},
    {**first, "distilled.dkd.temperature": 3.0},
    {**first, "pruned.pruning_ratio": 0.3},
    {**first, "pruned.pruning_ratio": 0.3, "distilled.dkd.temperature": 2.0},
    {**first, "pruned.pruning_ratio": 0.3, "distilled.dkd.temperature": 3.0},
    {**first, "pruned.pruning_ratio": 0.3, "distilled.dkd.temperature": 5.0},
    {**first, "pruned.pruning_ratio": 0.3, "distilled.dkd.temperature": 6.0},
    {**first, "pruned.pruning_ratio": 0.3, "distilled.dkd.temperature": 7.0},
)
config = replace(
    parse_arguments(["streets", *TINY, "--cache-dir", str(folder / "cache")]).study,
    num_pipelines=len(points),
    first_points=points,
    continuation=False,
    space=make_space(lr=FloatRange(low=1e-3, high=4e-3, log=True)),
    stop_hopeless=False,
    stall_seconds=STALL_SECONDS,
)


def describe(root, stages):
    """Folders and checksums of the networks that a pipeline made."""
    found = {}
    for stage in ("teacher", "dense", "sparse", "pruned", "distilled"):
        content = (root / stages[stage] / "checkpoint.safetensors").read_bytes()
        tensors = content[8 + int.from_bytes(content[:8], "little") :]  # the header has no order
        found[stage] = [stages[stage], hashlib.sha256(tensors).hexdigest()]
    return found


store = ArtifactStore(folder / "undisturbed")
context = StageContext(
    cache_dir=folder / "cache", num_threads=1, device_lock=DeviceLock("cpu", folder / "locks")
)
baselines = {
    name: run_baseline(name, config.pipeline, store, context).stage for name in ("teacher", "dense")
}
undisturbed = {}
for number in set(range(len(points))) - {2, 4}:
    chain = build_chain(config.pipeline.chain, points[number])
    result = run_pipeline(config.pipeline, chain, store, context)
    made = describe(store.root, {**result.stages, **baselines})
    undisturbed[number] = [result.metrics["miou"], made]

ray_session.make_trainable = make
retries.RETRY_SECONDS |= {"worker": (0.1, 0.2), "memory": (0.1,), "surroundings": (0.1, 0.2)}
run_dir = folder / "run"
run_dir.mkdir()
study = PipelineStudy(config, run_dir)
console = Console(file=sys.stderr, width=200)
with ray_session.ray_session(None, dashboard=False):
    board = ProgressBoard(study)
    with ProgressDisplay(board, console) as display:
        failures = WorkerFailures(run_dir)
        callback = BoardCallback(board, display, failures, lambda: False)
        dispatcher = Dispatcher(study, Places(count=2), on_change=display.note)
        searcher = PipelineSearcher(
            dispatcher,
            explain_error=failures.explain,
            on_change=lambda: write_trials(
                run_dir / "trials.csv", study.records.values(), config.objectives
            ),
        )
        resources = TrialResources(
            device="cpu", num_cpus=1, num_gpus=0, num_cpus_baseline=1, max_concurrent=2
        )
        ray_session.run_tune(config, run_dir, resources, searcher, callback)
print_summary(study, [], console)
outcomes = {
    record.number: [record.state, record.reason, record.metrics.get("miou")]
    for record in study.records.values()
}
disturbed = {
    number: [outcomes[number][2], describe(run_dir / "stages", study.records[number].stages)]
    for number in undisturbed
    if outcomes[number][0] == "complete"
}
planned = [name for name, faults in FAULTS.items() for _ in faults]
answer = {"undisturbed": undisturbed, "disturbed": disturbed, "outcomes": outcomes}
print(json.dumps({**answer, "planned": planned}))
