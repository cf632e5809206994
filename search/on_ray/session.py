"""Opens a Ray session and does one Tune run in it, without Ray's own output."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from search.config import StudyConfig

# Ray reads these variables when it is imported, so they are set before the import below.
_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _variable, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_variable, _value)
warnings.filterwarnings("ignore", module=r"ray\b.*")

import ray  # noqa: E402
import torch  # noqa: E402
from ray import tune  # noqa: E402
from ray.exceptions import AuthenticationError  # noqa: E402
from ray.tune import FailureConfig, PlacementGroupFactory, RunConfig, TuneConfig  # noqa: E402

from search.on_ray.allotment import TrialResources  # noqa: E402
from search.on_ray.failures import STALLS_FOLDER  # noqa: E402
from search.on_ray.progress_callback import BoardCallback  # noqa: E402
from search.on_ray.searcher import PipelineSearcher  # noqa: E402
from search.run_files.run_folder import TUNE_FOLDER  # noqa: E402
from trainables.artifacts.remote_stages import STAGES_FOLDER  # noqa: E402
from trainables.pipeline import pack_networks  # noqa: E402
from trainables.process.installation import Installation  # noqa: E402
from trainables.ray_internals import (  # noqa: E402
    keeping_starting_workers,
    listening_on_loopback,
    surviving_evictions,
)
from trainables.ray_pipeline import (  # noqa: E402
    WorkerConfig,
    make_trainable,
    name_trial,
    with_names,
)

BECOME_A_NODE = (
    "submit the study (--address http://HOST:PORT of the cluster's dashboard), or make this "
    "machine a node without stages (ray start --address=HOST:6379 --num-cpus=0 --num-gpus=0) and "
    "use --address auto"
)


@contextmanager
def ray_session(address: str | None, *, dashboard: bool) -> Iterator[str]:
    """Start Ray on this machine, or join a cluster; the session and its workers end at the exit.

    Other machines cannot reach a Ray that is started here; start a cluster for that.

    Args:
        address: Address of a running cluster; None starts Ray on this machine.
        dashboard: Start Ray's dashboard; ignored for a cluster, which has its own.

    Yields:
        Address of the dashboard, "" if there is none.

    Raises:
        ValueError: No cluster answers at the address, it refuses the token, or this machine is not
            one of its nodes.
    """
    if address is not None and address.startswith("ray://"):
        raise ValueError(
            f"a study cannot be driven through Ray Client ({address}); {BECOME_A_NODE}"
        )
    local: dict[str, Any] = {}
    if address is None:
        local = {
            "num_cpus": len(os.sched_getaffinity(0)),
            "num_gpus": _count_own_gpus(),
            "include_dashboard": dashboard,
            "dashboard_host": "127.0.0.1",
        }
    try:
        with nullcontext() if address else listening_on_loopback():
            context = ray.init(
                address or "local", logging_level=logging.ERROR, log_to_driver=False, **local
            )
    except (ConnectionError, TimeoutError) as error:
        if "node to connect to" in str(error.__cause__):  # the cluster has answered
            text = f"this machine is not a node of the Ray cluster at {address}; {BECOME_A_NODE}"
            raise ValueError(text) from None
        raise ValueError(f"no Ray cluster answers at {address}: {error}") from None
    except AuthenticationError as error:
        raise ValueError(f"the Ray cluster at {address} refuses the token: {error}") from None
    for name in ("ray", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield str(context.dashboard_url or "")
    finally:
        ray.shutdown()


@contextmanager
def redirected(path: Path) -> Iterator[None]:
    """Redirect stdout and stderr, and so Ray's output, to a file.

    A console that was created before keeps its own stream.

    Args:
        path: File to append to.
    """
    with path.open("a") as log, redirect_stdout(log), redirect_stderr(log):
        yield


def count_devices() -> tuple[int, float, int, int, float]:
    """Count cores, GPUs, a node's most cores, the nodes with cores, and a node's most GPUs."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
    cpus = [int(resources.get("CPU", 0)) for resources in nodes]
    gpus = [float(resources.get("GPU", 0)) for resources in nodes]
    return sum(cpus), sum(gpus), max(cpus), sum(count > 0 for count in cpus), max(gpus)


def count_own_devices() -> tuple[int, float, int, int]:
    """What `count_devices` will say of a session on this machine alone."""
    cpus = len(os.sched_getaffinity(0))
    return cpus, float(_count_own_gpus()), cpus, 1


def _count_own_gpus() -> int:
    """Count the GPUs that PyTorch can use; Ray also sees those that it cannot."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def run_tune(
    config: StudyConfig,
    run_dir: Path,
    resources: TrialResources,
    searcher: PipelineSearcher,
    callback: BoardCallback,
    remote_store: str | None = None,
    installation: Installation | None = None,
) -> None:
    """Run trials until the searcher has no more.

    Args:
        config: Configuration of the study.
        run_dir: Folder for `stages/`, `tune/` and, if a stage hangs, `stalls/`.
        resources: Resources of each trial.
        searcher: Searcher that chooses the stages and learns their outcomes.
        callback: Callback that watches the trials.
        remote_store: URI of the stages' artefacts if they are in storage. If the run is in storage
            too, workers keep their part of `run_dir` on their own disks, under the same path.
        installation: Versions and code that every worker of a cluster must have, also on nodes that
            join later.

    Raises:
        KeyboardInterrupt: The callback ended the run.
    """
    run_dir = run_dir.absolute()  # workers have other working directories
    worker_config = WorkerConfig(
        stages_dir=run_dir / STAGES_FOLDER,
        stalls_dir=run_dir / STALLS_FOLDER,
        cache_dir=config.cache_dir,
        checkpoint_seconds=config.checkpoint_seconds,
        device=resources.device,
        num_threads=resources.num_cpus,
        num_threads_root=resources.num_cpus_baseline,
        uses_threads=resources.uses_threads,
        stall_seconds=config.stall_seconds,
        num_workers=max(0, resources.num_cpus - 1) if resources.num_gpus else 0,
        remote_store=remote_store,
        installation=installation,
        user_code=pack_networks(config.pipeline),
    )

    pipeline = config.pipeline  # Tune unpickles what `request` refers to twice for every trial

    def request(trial: dict[str, Any]) -> PlacementGroupFactory:
        return PlacementGroupFactory(resources.list_bundles(trial, pipeline))

    # By default Tune starts one process at a time.
    os.environ["TUNE_MAX_PENDING_TRIALS_PG"] = str(resources.max_concurrent)
    sessions = len(list((run_dir / TUNE_FOLDER).glob("session-*")))
    tuner = tune.Tuner(
        with_names(make_trainable(pipeline, worker_config), request),
        tune_config=TuneConfig(
            search_alg=searcher,
            num_samples=-1,
            reuse_actors=config.reuse_workers,
            trial_name_creator=lambda trial: name_trial(trial.config),
            trial_dirname_creator=lambda trial: name_trial(trial.config),
        ),
        run_config=RunConfig(
            name=f"session-{sessions + 1}",
            storage_path=str(run_dir / TUNE_FOLDER),
            failure_config=FailureConfig(max_failures=0),  # the dispatcher retries failed stages
            callbacks=[callback],
            verbose=0,
        ),
    )
    with surviving_evictions(), keeping_starting_workers():
        tuner.fit()
