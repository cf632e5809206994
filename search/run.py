"""Run a study: `python search/run.py [RECIPE] [--overrides]`; `--help` lists every field."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from models.files.storage import explain_storage_error
from models.hardware import describe_hardware
from search.command_line import Arguments, parse_arguments
from search.config import CONFIG_FILE, StudyConfig, load_config, save_config
from search.on_ray.jobs import is_job_server, submit_study
from search.on_ray.metrics import StudyMetrics, metrics_address
from search.on_ray.nodes import check_cluster, describe_worker, read_file, summon_worker
from search.on_ray.progress_callback import BoardCallback
from search.on_ray.searcher import PipelineSearcher
from search.on_ray.session import allot, count_devices, ray_session, redirected, run_tune
from search.pipelines.confirmation import Confirmation
from search.pipelines.retries import ObstacleError
from search.pipelines.study import PipelineStudy
from search.preflight import check_store, check_study, fetch_data, settle_paths
from search.run_files.first_points import read_first_points
from search.run_files.progress import ProgressBoard, ProgressDisplay
from search.run_files.remote_run import RemoteRun, connect, create_remote_run, find_remote_run
from search.run_files.results import (
    METADATA_FILE,
    TRIALS_FILE,
    now,
    reference_point,
    write_metadata,
    write_trials,
)
from search.run_files.retention import keep_front
from search.run_files.run_folder import create_run_folder, locked
from search.run_files.summary import (
    print_confirmation,
    print_next_steps,
    print_summary,
    write_report,
)
from search.run_files.warm_start import check_latency, read_known
from trainables.artifacts.remote_folder import StorageError, is_uri
from trainables.pipeline import Baseline, DatasetSummary
from trainables.process.installation import inspect_installation

EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_OBSTACLE = 0, 1, 2, 3
EXIT_SIGNAL = 128  # plus the signal's number, as a shell has it: 130 after Ctrl-C
WRITING_SHARE = 0.05  # of the time, at most, goes into trials.csv: thousands of rows take seconds
EPILOGUE = "interrupted; what is known so far is kept"


@dataclass(kw_only=True, slots=True)
class Run:
    """A run in progress.

    Attributes:
        arguments: What the user asked for.
        config: Of the study.
        folder: Of the run; the driver's copy of it if the run lies in storage.
        dataset: What was read of the data set.
        study: Its trials.
        console: For the user.
        remote: The run in storage, if it lies there.
        confirmation: Retrainings of the study's front.
        baselines: Teacher and dense student, as soon as they are trained.
        baseline_errors: Why one of them could not be trained.
        device: Torch device of the trials.
        hardware: Machine of the trials; None if it is this one.
        write_again_at: `time.monotonic` before which trials.csv is left as it is.
        signals: Numbers of those that asked for the run's end.
    """

    arguments: Arguments
    config: StudyConfig
    folder: Path
    dataset: DatasetSummary
    study: PipelineStudy
    console: Console
    remote: RemoteRun | None = None
    confirmation: Confirmation = field(init=False)
    baselines: list[Baseline] = field(default_factory=list)
    baseline_errors: dict[str, str] = field(default_factory=dict)
    device: str = "cpu"
    hardware: dict[str, Any] | None = None
    write_again_at: float = 0.0
    signals: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.confirmation = Confirmation(self.study, self.folder)

    @property
    def storage(self) -> str | None:
        """URI of the run, if it lies in storage."""
        return self.remote.remote.uri if self.remote else None

    @property
    def remote_store(self) -> str | None:
        """URI of the artefacts, if they lie in storage."""
        if self.remote:
            return self.remote.store.uri
        return self.config.store if is_uri(self.config.store or "") else None


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, prepare, search, report.

    Returns:
        Exit status: 0, 1 if nothing succeeded, 2 for bad input, 3 if a disk, the storage or the
        data failed, 130 after Ctrl-C, 143 after SIGTERM.
    """
    logging.basicConfig(
        level="WARNING", format="%(message)s", handlers=[RichHandler(show_path=False)]
    )
    console = Console(file=sys.stdout)
    folder: Path | None = None
    argv = sys.argv[1:] if argv is None else argv
    try:
        arguments = parse_arguments(argv)
        if arguments.address is not None and is_job_server(arguments.address):
            return submit_study(arguments.address, argv, arguments, console)
        folder, remote, config, dataset = prepare(arguments, console)
        with locked(folder), remote.held() if remote else contextlib.nullcontext():
            if arguments.new_confirm is not None:
                save_config(config, folder / CONFIG_FILE)  # for the next --resume
            run = Run(
                arguments=arguments,
                config=config,
                folder=folder,
                dataset=dataset,
                study=open_study(config, folder, console),
                console=console,
                remote=remote,
            )
            return search(run)
    except StorageError as error:
        hint = "go on with --resume from this machine"
        print_error(f"the run is not all in storage: {error}; {hint}")
        return EXIT_OBSTACLE
    except ValueError as error:
        print_error(error)
        return EXIT_BAD_INPUT
    except OSError as error:
        obstacle = explain_storage_error(error)
        if not obstacle:
            raise
        hint = "" if folder is None else f", then go on with --resume {folder}"
        print_error(obstacle + hint)
        return EXIT_OBSTACLE
    except KeyboardInterrupt:
        console.print(EPILOGUE)
        return EXIT_SIGNAL + signal.SIGINT


def print_error(text: object) -> None:
    """Print what ended the run to stderr."""
    console = Console(stderr=True)
    console.print(f"[bold red]error:[/] {escape(str(text))}", highlight=False, soft_wrap=True)


def prepare(
    arguments: Arguments, console: Console
) -> tuple[Path, RemoteRun | None, StudyConfig, DatasetSummary]:
    """Find the run's folder, or make one; a bad study never gets one.

    Raises:
        ValueError: Says what cannot be used.
    """
    resume, output_dir = arguments.resume, arguments.output_dir
    run: RemoteRun | None = None
    storage = None
    if resume is not None:
        run = find_remote_run(resume) if is_uri(resume) else None
        folder = run.folder if run else Path(resume)
        config = load_config(folder / CONFIG_FILE)
        if arguments.new_confirm is not None:
            config = replace(config, confirm=arguments.new_confirm)
    else:
        storage = connect(output_dir) if is_uri(output_dir) else None
        config = fetch_data(arguments.study) if arguments.download else arguments.study
        if arguments.points is not None:
            points = read_first_points(arguments.points, config)
            config = replace(config, first_points=points)
        config = settle_paths(config)
        check_store(config.store, is_remote=storage is not None)
        read_known(config)  # a run that does not compare ends it here
    with console.status(f"reading the data set {config.pipeline.data.name}"):
        dataset = check_study(config)
    if storage is not None:
        run = create_remote_run(storage, config)
        folder = run.folder
    elif resume is None:
        folder = create_run_folder(Path(output_dir), config)
    return folder, run, config, dataset


def open_study(config: StudyConfig, folder: Path, console: Console) -> PipelineStudy:
    """Open the run's study; a new one learns from the earlier runs that it starts from.

    Raises:
        ValueError: Says which earlier run cannot be used.
    """
    study = PipelineStudy(config, folder)
    if study.awaits_known:
        known = read_known(config)
        study.learn_from(known)
        console.print(
            f"the sampler knows {len(known)} finished pipelines of earlier runs", highlight=False
        )
    return study


def search(run: Run) -> int:
    """Run what is left of the study and of its confirmation; report, whatever happens meanwhile.

    Returns:
        Exit status.
    """
    place = f"{run.storage} (copy in {run.folder})" if run.storage else str(run.folder)
    run.console.print(f"run folder: {place}", highlight=False, soft_wrap=True)
    status = None
    is_searched = not run.study.num_unfinished and (run.folder / METADATA_FILE).exists()
    if is_searched:
        run.baselines = read_baselines(run.folder)  # as measured beside the pipelines
    if not is_searched or run.confirmation.num_left:
        try:
            tune_pipelines(run)
        except KeyboardInterrupt:
            status = EXIT_SIGNAL + (run.signals or [signal.SIGINT])[0]
            run.console.print(EPILOGUE)
        except ObstacleError as error:
            status = EXIT_OBSTACLE
            print_error(error)
    is_complete = finish(run)
    return (EXIT_OK if is_complete else EXIT_FAILED) if status is None else status


def tune_pipelines(run: Run) -> None:
    """Start Ray and run the baselines, all pipelines and all retrainings that are left.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C, or the machine is about to end.
        ObstacleError: A disk, the storage or the data failed.
        ValueError: A trial asks for more than the machines have, or the nodes of a cluster differ.
    """
    address, dashboard = run.arguments.address, run.arguments.dashboard
    with (
        redirected(run.folder / "ray.log"),
        ray_session(address, dashboard=dashboard) as url,
        until_interrupted(run.signals),
    ):
        if url:
            run.console.print(f"Ray dashboard: http://{url}", highlight=False)
            if at := metrics_address():
                run.console.print(f"metrics: http://{at}/metrics", highlight=False)
        if address:
            with run.console.status("waiting for the cluster's nodes and checking them"):
                summon_worker(run.config)
                check_cluster(run.config, run.folder, run.storage)
        allotment = allot(run.config, *count_devices(), can_grow=bool(address))
        run.device = allotment.device
        if address and run.device != "cpu":
            run.hardware = describe_worker()
        if run.config.warm_start and not run.study.records:
            check_latency(run.config, run.device, run.hardware or describe_hardware(run.device))
        board = ProgressBoard(run.study, run.confirmation)
        if run.baselines:
            board.reference = reference_point(run.config, run.baselines)
            board.refresh()
        with ProgressDisplay(board, run.console) as display:
            callback = BoardCallback(
                board,
                display,
                run.folder,
                should_stop=lambda: bool(
                    run.signals or searcher.problem or (run.remote and run.remote.is_lost)
                ),
                on_step=lambda: metrics.tick(),
                read_elsewhere=read_file if run.remote else None,
            )
            searcher = PipelineSearcher(
                run.study,
                max_concurrent=allotment.max_concurrent,
                explain_error=callback.explain_error,
                on_change=lambda: write_results(run, searcher, board),
                on_retry=display.note,
                should_stop=lambda: bool(run.signals),
                confirmation=run.confirmation,
            )
            stages = run.remote.stages if run.remote else None
            metrics = StudyMetrics(
                board, searcher, run.folder, run.device, run.confirmation, stages
            )
            try:
                run_tune(
                    run.config,
                    run.folder,
                    allotment,
                    searcher,
                    callback,
                    remote_store=run.remote_store,
                    installation=inspect_installation() if address else None,
                )
            finally:
                if searcher.problem is not None:
                    raise searcher.problem


def write_results(run: Run, searcher: PipelineSearcher, board: ProgressBoard) -> None:
    """Bring the results files and the board up to date."""
    run.baseline_errors = searcher.baseline_errors
    if len(run.baselines) < len(searcher.baselines):
        run.baselines = list(searcher.baselines.values())
        if len(run.baselines) == 2:
            board.reference = reference_point(run.config, run.baselines)
            path = run.folder / METADATA_FILE
            created_at = json.loads(path.read_text())["created_at"] if path.exists() else now()
            write_metadata(
                path,
                run.config,
                run.dataset,
                run.baselines,
                device=run.device,
                created_at=created_at,
                hardware=run.hardware,
            )
    started = time.monotonic()
    if started >= run.write_again_at:
        write_trials(run.folder / TRIALS_FILE, run.study.records.values(), run.config.objectives)
        ended = time.monotonic()
        run.write_again_at = ended + (ended - started) / WRITING_SHARE
    board.refresh()


def finish(run: Run) -> bool:
    """Write the last results and the report, print what came of it.

    Returns:
        Whether a pipeline is complete.
    """
    run.study.save_clock()
    write_trials(run.folder / TRIALS_FILE, run.study.records.values(), run.config.objectives)
    print_summary(run.study, run.baselines, run.console)
    for role, reason in run.baseline_errors.items():
        run.console.print(f"{role} failed: {reason}", markup=False)
    complete = [record for record in run.study.records.values() if record.state == "complete"]
    report = None
    if complete and run.remote:
        with run.console.status("fetching the networks of the front"):
            run.remote.fetch_front(complete, run.config.objectives)
    if complete:
        with run.console.status("writing the report"):
            report = write_report(run.folder)
    is_over = not run.study.num_unfinished and not run.confirmation.num_left
    if complete and is_over and run.config.keep == "front":
        keep_front(run.study, run.folder, run.remote.stages if run.remote else None)
    print_confirmation(run.confirmation, report, run.console)
    print_next_steps(run.study, run.confirmation, run.folder, report, run.console, run.storage)
    return bool(complete)


def read_baselines(folder: Path) -> list[Baseline]:
    """Baselines of an earlier session, from metadata.json."""
    content = json.loads((folder / METADATA_FILE).read_text())
    return [Baseline(**entry) for entry in content["baselines"]]


@contextlib.contextmanager
def until_interrupted(signals: list[int]) -> Iterator[None]:
    """Collect Ctrl-C and SIGTERM instead of raising them anywhere; a second one is raised at once.

    Args:
        signals: The signals' numbers are added to it.
    """

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        if len(signals) > 1:
            raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


if __name__ == "__main__":
    sys.exit(main())
