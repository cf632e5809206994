"""Trains a network in Ray with a helper, which is killed; then again: `python ... FOLDER`.

A script of its own, so that Ray ships `Leader` to its worker by value. Prints what came of it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.util.placement_group import placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from trainables import ray_pipeline
from trainables.artifacts.store import ArtifactStore
from trainables.chain import build_chain
from trainables.context import StageContext
from trainables.data import AugmentationConfig
from trainables.data_source import DataConfig
from trainables.learning.optimization import OptimizerConfig
from trainables.learning.training import TrainConfig
from trainables.network_config import NetworkConfig
from trainables.pipeline import build_stages
from trainables.pipeline_config import PipelineConfig
from trainables.process.device_lock import DeviceLock
from trainables.ray_internals import listening_on_loopback
from trainables.ray_pipeline import WorkerConfig, describe_task, make_trainable

folder = Path(sys.argv[1])
config = PipelineConfig(
    data=DataConfig(
        size=(64, 96), num_samples=8, augmentation=AugmentationConfig(crop_size=(64, 64))
    ),
    student=NetworkConfig(name="dual_branch", backbone="tu-resnet18", width=0.125),
    dense=TrainConfig(
        num_steps=10, batch_size=3, precision="float32", optimizer=OptimizerConfig(lr=1e-4)
    ),
)
chain = build_chain(["dense"], {})
workplace = WorkerConfig(
    stages_dir=folder / "stages",
    stalls_dir=folder / "stalls",
    cache_dir=folder / "cache",
    checkpoint_seconds=0.0,
    device="cpu",
    num_threads=1,
    num_threads_root=1,
)


class Leader:
    """Stands for Tune's worker: it has the first bundle of a placement group."""

    def work(self, *, kills: bool) -> dict[str, Any]:
        """Run the trial, and kill its helper after step 3; returns the last report."""
        reports: list[dict[str, Any]] = []
        helpers: list[str] = []
        ray_pipeline.tune.report = reports.append  # type: ignore[assignment]
        watch = threading.Thread(target=self._watch, args=(helpers, kills), daemon=True)
        watch.start()
        error = ""
        try:
            make_trainable(config, workplace)(describe_task(chain, "dense student"))
        except Exception as failure:
            error = f"{type(failure).__name__}: {failure}"
        watch.join()
        return {"error": error, "last": reports[-1], "helpers": helpers}

    def _watch(self, helpers: list[str], kills: bool) -> None:
        while not helpers:
            time.sleep(0.1)
            for process in psutil.process_iter(["cmdline"]):
                title = " ".join(process.info["cmdline"] or ()).strip()
                if title.startswith("ray::dense-student helper"):
                    helpers.append(title)
                    victim = process
        while kills and read_step() < 3:
            time.sleep(0.005)
        if kills:
            victim.kill()


def read_step() -> int:
    """Step of the state that was saved last."""
    states = list((folder / "stages").glob("*.partial/state.safetensors"))
    if not states:
        return 0
    from safetensors import safe_open  # cannot be shipped by value

    with safe_open(states[0], framework="pt") as file:
        return int(json.loads(file.metadata()["progress"])["step"])


context = StageContext(
    cache_dir=workplace.cache_dir, num_threads=1, device_lock=DeviceLock("cpu", folder / "locks")
)
store = ArtifactStore(folder / "alone")
alone = build_stages(config, chain)[-1].obtain(store, context)
with listening_on_loopback():
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
group = placement_group([{"CPU": 1}] * 2)
strategy = PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0)
leader = ray.remote(num_cpus=1)(Leader).options(scheduling_strategy=strategy).remote()
killed = ray.get(leader.work.remote(kills=True))
step = read_step()
finished = ray.get(leader.work.remote(kills=False))
ray.shutdown()
folders = {"alone": str(alone.folder)}
folders["shared"] = str(folder / "stages" / alone.folder.name)
print(json.dumps({"killed": killed, "step": step, "finished": finished, "folders": folders}))
