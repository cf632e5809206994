"""Run a study: `python search/run.py [RECIPE] [--flags]`; `--help` lists every flag."""

from __future__ import annotations

import contextlib
import logging
import signal
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape

from models.files.storage import explain_storage_error
from models.hardware import describe_hardware
from search.check import check
from search.command_line import NO_LIMIT, Arguments, parse_arguments
from search.config import CONFIG_FILE, StudyConfig, load_config, save_config
from search.duration import parse_duration
from search.forecast.estimate import Estimate, describe_estimate, load_estimate, save_estimate
from search.forecast.planning import plan_study
from search.interrupts import Interrupts
from search.on_ray.allotment import TrialResources, allot
from search.on_ray.failures import WorkerFailures
from search.on_ray.jobs import is_job_server, submit_study
from search.on_ray.metrics import StudyMetrics, metrics_address
from search.on_ray.nodes import check_cluster, describe_workers, read_file, summon_worker
from search.on_ray.progress_callback import BoardCallback
from search.on_ray.rehearsals import count_places, time_on_worker
from search.on_ray.searcher import PipelineSearcher
from search.on_ray.session import (
    count_devices,
    ray_session,
    redirected,
    run_tune,
)
from search.pipelines.confirmation import Confirmation
from search.pipelines.dispatcher import Dispatcher
from search.pipelines.front import find_front
from search.pipelines.retries import ObstacleError
from search.pipelines.study import PipelineStudy
from search.pipelines.time_budget import TimeBudget
from search.preflight import (
    check_choices,
    check_store,
    check_study,
    fetch_data,
    settle_paths,
)
from search.run_files.answer import (
    add_findings,
    collect_findings,
    collect_warnings,
    deploy_front,
    read_kept_out,
    write_pictures_and_scores,
)
from search.run_files.comparable_latency import check_latency
from search.run_files.first_points import read_first_points
from search.run_files.progress import ProgressBoard, ProgressDisplay
from search.run_files.remote_run import (
    RemoteRun,
    connect,
    create_remote_run,
    find_remote_run,
    removed_if_refused,
)
from search.run_files.results import METADATA_FILE
from search.run_files.results_writer import ResultsWriter
from search.run_files.retention import keep_front
from search.run_files.run_folder import create_run_folder, locked
from search.run_files.summary import (
    print_confirmation,
    print_next_steps,
    print_summary,
    write_report,
)
from search.run_files.warm_start import read_known
from search.study_time import StudyTime, make_budget, make_tariff
from trainables.artifacts.remote_folder import RemoteFolder, StorageError, is_uri
from trainables.artifacts.remote_stages import STAGES_FOLDER
from trainables.context import StageContext, detect_device
from trainables.pipeline import DatasetSummary
from trainables.process.device_lock import DeviceLock
from trainables.process.installation import inspect_installation

EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_OBSTACLE = 0, 1, 2, 3
EXIT_SIGNAL = 128  # plus the signal's number, as in a shell: 130 after Ctrl-C
EPILOGUE = "interrupted; all results so far are saved"


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """A run that is ready to be searched.

    Attributes:
        arguments: Parsed command line.
        folder: Folder of the run; the driver's copy of it if the run is in storage.
        study: Study with its pipelines.
        confirmation: Retrainings of the study's front.
        results: Writer of the run's results files.
        console: Console to print to.
        remote: The run in storage; None if it is in a local folder.
    """

    arguments: Arguments
    folder: Path
    study: PipelineStudy
    confirmation: Confirmation
    results: ResultsWriter
    console: Console
    remote: RemoteRun | None = None

    @property
    def config(self) -> StudyConfig:
        """Configuration of the study."""
        return self.study.config

    @property
    def storage(self) -> str | None:
        """URI of the run; None if it is in a local folder."""
        return self.remote.remote.uri if self.remote else None

    @property
    def remote_store(self) -> str | None:
        """URI of the stages' artefacts; None if they are in a local folder."""
        if self.remote:
            return self.remote.store.uri
        return self.config.store if is_uri(self.config.store or "") else None


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line, prepare the study, search and write the report.

    Returns:
        Exit status: 0 if a pipeline succeeded, 1 if none did, 2 for bad input, 3 if a disk, the
        storage or the data failed, 130 after Ctrl-C, 143 after SIGTERM.
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
        if arguments.check:
            return check_alone(arguments, console)
        folder, remote, config, dataset = prepare(arguments, console)
        is_new = arguments.resume is None
        with (
            locked(folder),
            remote.held() if remote else contextlib.nullcontext(),
            removed_if_refused(folder, remote) if is_new else contextlib.nullcontext(),
        ):
            study = open_study(config, folder, console)
            if not is_new:
                limit_from_now(study, arguments.new_time_limit)
                save_config(study.config, folder / CONFIG_FILE)  # for the next --resume
            run = Run(
                arguments=arguments,
                folder=folder,
                study=study,
                confirmation=Confirmation(study, folder, read_kept_out(folder)),
                results=ResultsWriter(study, folder, dataset),
                console=console,
                remote=remote,
            )
            return search(run)
    except StorageError as error:
        hint = "continue with --resume from this machine"
        print_error(f"the run is not completely in storage: {error}; {hint}")
        return EXIT_OBSTACLE
    except ValueError as error:
        print_error(error)
        return EXIT_BAD_INPUT
    except OSError as error:
        obstacle = explain_storage_error(error)
        if not obstacle:
            raise
        hint = "" if folder is None else f", then continue with --resume {folder}"
        print_error(obstacle + hint)
        return EXIT_OBSTACLE
    except KeyboardInterrupt:
        console.print(EPILOGUE)
        return EXIT_SIGNAL + signal.SIGINT


def check_alone(arguments: Arguments, console: Console) -> int:
    """Run the checks of `--check`, which print every problem.

    Returns:
        Exit status: 0 if the study can be run, otherwise 2.
    """
    config = settle_paths(find_inputs(arguments))
    read_known(config)
    output = Path("." if is_uri(arguments.output_dir) else arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    is_ready = check(config, console, output / f"{config.recipe}-check.png")
    return EXIT_OK if is_ready else EXIT_BAD_INPUT


def find_inputs(arguments: Arguments) -> StudyConfig:
    """Download the data if asked to, and read the points to try first."""
    config = fetch_data(arguments.study) if arguments.download else arguments.study
    if arguments.points is None:
        return config
    points = read_first_points(arguments.points, config)
    return replace(config, first_points=points, begin_with_sweeps=False)


def print_error(text: object) -> None:
    """Print the error that ended the run to stderr."""
    console = Console(stderr=True)
    console.print(f"[bold red]error:[/] {escape(str(text))}", highlight=False, soft_wrap=True)


def prepare(
    arguments: Arguments, console: Console
) -> tuple[Path, RemoteRun | None, StudyConfig, DatasetSummary]:
    """Find the run's folder, or create one once the study has been checked.

    Raises:
        ValueError: The study cannot be run; the message says why.
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
        if arguments.new_price_per_hour is not None:
            config = replace(config, price_per_hour=arguments.new_price_per_hour)
    else:
        storage = connect(output_dir) if is_uri(output_dir) else None
        config = settle_paths(find_inputs(arguments))
        check_store(config.store, is_remote=storage is not None)
        read_known(config)  # raises here if an earlier run is not comparable
    with console.status(f"reading the data set {config.pipeline.data.name}"):
        # The device of a cluster is not known yet; `tune_pipelines` checks it.
        dataset = check_study(config, "cpu" if arguments.address else None)
    for text in dataset.warnings:
        console.print(f"[yellow]look at:[/] {escape(text)}", highlight=False, soft_wrap=True)
    if storage is not None:
        run = create_remote_run(storage, config)
        folder = run.folder
    elif resume is None:
        folder = create_run_folder(Path(output_dir), config)
    return folder, run, config, dataset


def open_study(config: StudyConfig, folder: Path, console: Console) -> PipelineStudy:
    """Open the run's study; a new study learns from the runs named by --warm-start.

    Raises:
        ValueError: An earlier run cannot be used; the message names it.
    """
    study = PipelineStudy(config, folder)
    if study.awaits_known:
        known = read_known(config)
        study.learn_from(known)
        console.print(
            f"the sampler knows {len(known)} finished pipelines of earlier runs", highlight=False
        )
    return study


def limit_from_now(study: PipelineStudy, new: str | None) -> None:
    """Set the time limit of a resumed study, which counts from now on; None leaves the old one."""
    if new == NO_LIMIT:
        study.config = replace(study.config, time_limit=None)
    elif new is not None:
        limit = study.worked_seconds + parse_duration(new)
        study.config = replace(study.config, time_limit=f"{limit:.0f}s", estimate=True)


def search(run: Run) -> int:
    """Run the rest of the study and of its confirmation, and write the report in any case.

    Returns:
        Exit status.
    """
    place = f"{run.storage} (copy in {run.folder})" if run.storage else str(run.folder)
    run.console.print(f"run folder: {place}", highlight=False, soft_wrap=True)
    status = None
    baseline_errors: dict[str, str] = {}
    if run.results.missing or run.confirmation.num_left:
        interrupts = Interrupts()
        try:
            baseline_errors = tune_pipelines(run, interrupts)
        except KeyboardInterrupt:
            status = EXIT_SIGNAL + (interrupts.received or [signal.SIGINT])[0]
            run.console.print(EPILOGUE)
        except ObstacleError as error:
            status = EXIT_OBSTACLE
            print_error(error)
    is_complete = finish(run, baseline_errors, was_cut_off=status is not None)
    return (EXIT_OK if is_complete else EXIT_FAILED) if status is None else status


def tune_pipelines(run: Run, interrupts: Interrupts) -> dict[str, str]:
    """Start Ray, print an estimate, and run what is not done yet and fits into the time limit.

    Args:
        run: Run to continue.
        interrupts: Signals that ask the run to end.

    Returns:
        Errors of the uncompressed networks that could not be trained, by name.

    Raises:
        KeyboardInterrupt: The user pressed Ctrl-C, or SIGTERM arrived.
        ObstacleError: A disk, the storage or the data failed.
        ValueError: A trial needs more than the machines have, the nodes of a cluster differ,
            the time limit is too short for any answer, or latencies that are known were measured
            on other hardware.
    """
    address, dashboard = run.arguments.address, run.arguments.dashboard
    with (
        redirected(run.folder / "ray.log"),
        ray_session(address, dashboard=dashboard) as url,
        interrupts,
    ):
        if url:
            run.console.print(f"Ray dashboard: http://{url}", highlight=False)
            if at := metrics_address():
                run.console.print(f"metrics: http://{at}/metrics", highlight=False)
        if address:
            with run.console.status("waiting for the cluster's nodes and checking them"):
                summon_worker(run.config)
                check_cluster(run.config, run.folder, run.storage)
        resources = allot(run.config, *count_devices(), can_grow=bool(address))
        check_choices(run.config, resources.device)
        workers = describe_workers(resources.device) if address else []
        for folder in list_compared(run):
            here = workers or [describe_hardware(resources.device)]
            check_latency(folder, run.config, resources.device, here)
        stored = RemoteFolder(run.remote_store).list() if run.remote_store else ()
        estimate = plan(run, interrupts, resources, stored)
        places = count_places(resources)
        budget = make_budget(run.study, run.folder, estimate, places, stored)
        hardware = workers[0] if workers else None
        return run_stages(run, interrupts, resources, hardware, estimate, budget)


def list_compared(run: Run) -> Sequence[Path]:
    """List the folders of the runs whose latencies the rest of the study is compared with."""
    if not run.results.missing:  # it is only confirmed, so no pipeline is measured any more
        return ()
    ended = (r for r in run.study.records.values() if r.state != "running")
    has_measured = any("latency_ms" in record.metrics for record in ended)
    if has_measured and (run.folder / METADATA_FILE).exists():
        return (run.folder,)
    return run.config.warm_start


def plan(
    run: Run, interrupts: Interrupts, resources: TrialResources, stored: Collection[str]
) -> Estimate | None:
    """Time a few steps of every kind of stage, and say what the study will take.

    Args:
        run: That is to be searched; a new one is changed where its time limit asks for that.
        interrupts: Asks for the end.
        resources: Of its trials.
        stored: Names of the files in the storage of the stages.

    Returns:
        What is expected, also of an earlier session; None if nobody wants to know.
    """
    config, study = run.config, run.study
    estimate = load_estimate(run.folder)
    if estimate is not None or not config.estimate:
        return estimate
    places = count_places(resources)
    with run.console.status("timing a few steps of every kind of stage"):
        timed = time_on_worker(config, resources, lambda: bool(interrupts))
        study.config, estimate = plan_study(
            config,
            *timed,
            places,
            stages_dir=run.folder / STAGES_FOLDER,
            stored=stored,
            worked=study.worked_seconds,
            may_change=not study.records,
        )
    save_config(study.config, run.folder / CONFIG_FILE)
    save_estimate(estimate, run.folder)
    tariff = make_tariff(config, resources.num_gpus)
    for line in describe_estimate(run.config, estimate, places, tariff):
        run.console.print(line, markup=False, highlight=False, soft_wrap=True)
    return estimate


def run_stages(
    run: Run,
    interrupts: Interrupts,
    resources: TrialResources,
    hardware: dict[str, Any] | None,
    estimate: Estimate | None,
    budget: TimeBudget,
) -> dict[str, str]:
    """Run stages in Tune until the dispatcher has no more; returns and raises as its caller."""
    places = count_places(resources)
    board = ProgressBoard(run.study, run.confirmation, read_kept_out(run.folder))
    board.reference = run.results.reference
    board.refresh()
    with ProgressDisplay(board, run.console) as display:
        dispatcher = Dispatcher(
            run.study,
            places,
            works_ahead=True,
            on_change=display.note,
            confirmation=run.confirmation,
            budget=budget,
        )
        study_time = StudyTime(
            dispatcher,
            board,
            run.results,
            tariff=make_tariff(run.config, resources.num_gpus),
            places=places,
            estimate=estimate,
        )
        metrics = StudyMetrics(
            board,
            dispatcher,
            run.folder,
            resources.device,
            run.confirmation,
            run.remote.stages if run.remote else None,
        )

        def should_stop() -> bool:
            is_lost = run.remote is not None and run.remote.is_lost
            return bool(interrupts or dispatcher.problem or is_lost or budget.is_used_up)

        def note_change() -> None:
            run.results.update(list(dispatcher.baselines.values()), resources.device, hardware)
            board.reference = run.results.reference
            board.refresh()

        def tick() -> None:
            metrics.tick()
            study_time.tick(metrics.saved_seconds)

        failures = WorkerFailures(run.folder, read_file if run.remote else None)
        searcher = PipelineSearcher(
            dispatcher,
            explain_error=failures.explain,
            on_change=note_change,
            should_stop=lambda: bool(interrupts),
        )
        callback = BoardCallback(
            board,
            display,
            failures,
            should_stop=should_stop,
            on_step=tick,
            on_start=searcher.note_start,
            on_progress=searcher.note_progress,
        )
        try:
            run_tune(
                run.config,
                run.folder,
                resources,
                searcher,
                callback,
                remote_store=run.remote_store,
                installation=inspect_installation() if run.arguments.address else None,
            )
        except KeyboardInterrupt:
            if interrupts or not budget.is_used_up:
                raise
        finally:
            study_time.finish(metrics.saved_seconds, run.confirmation)
            if dispatcher.problem is not None:
                raise dispatcher.problem
        return dispatcher.baseline_errors


def finish(run: Run, baseline_errors: Mapping[str, str], *, was_cut_off: bool) -> bool:
    """Write the last results and the report, and print the summary.

    Args:
        run: Run that is over or interrupted.
        baseline_errors: Errors of the uncompressed networks that could not be trained, by name.
        was_cut_off: Whether the run was interrupted, rather than over or out of time.

    Returns:
        True if at least one pipeline is complete.
    """
    run.study.save_clock()
    run.results.write_trials()
    kept_out, records = read_kept_out(run.folder), run.study.records.values()
    print_summary(run.study, run.results.baselines, run.console, kept_out)
    for role, reason in baseline_errors.items():
        run.console.print(f"{role} failed: {reason}", markup=False)
    is_complete = any(record.state == "complete" for record in records)
    report = None
    roots = [name for baseline in run.results.baselines for name in baseline.artefacts]
    if is_complete and run.remote:
        with run.console.status("fetching the networks of the front"):
            front = find_front(records, run.config.objectives, kept_out, with_equals=True)
            members = [name for record in front for name in record.artefacts]
            run.remote.fetch_networks([*roots, *members])
    is_searched = not (run.study.num_unfinished or run.confirmation.num_left)
    is_over = is_searched and not run.results.missing
    for text in run.results.time.get("left_out", ()):
        run.console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)
    # A study that has failed to train an uncompressed network has ended too.
    has_ended = is_over or (is_searched and bool(baseline_errors))
    has_ended |= run.config.time_limit is not None and not was_cut_off
    if is_complete and has_ended:
        write_answer(run)
    if is_complete:
        with run.console.status("writing the report"):
            report = write_report(run.folder)
    if is_complete and is_over and run.config.keep == "front":
        stages = run.remote.stages if run.remote else None
        keep_front(run.study, run.folder, stages, read_kept_out(run.folder), roots)
    # Another network may have taken the place of one that is kept out now.
    confirmation = Confirmation(run.study, run.folder, read_kept_out(run.folder))
    print_confirmation(confirmation, report, run.console)
    print_next_steps(
        run.study,
        confirmation,
        run.folder,
        report,
        run.console,
        run.storage,
        run.results.missing,
    )
    return is_complete


def write_answer(run: Run) -> None:
    """Write deploy/, pictures/ and test.csv of a finished study."""
    device = detect_device()
    context = StageContext(
        cache_dir=run.config.cache_dir, device=device, device_lock=DeviceLock(device)
    )
    kept_out, notes = read_kept_out(run.folder), list[str]()
    if run.config.deploy:
        with run.console.status("writing and running the files to deploy"):
            fetch = run.remote.fetch_networks if run.remote else None
            kept_out, notes = deploy_front(run.study, run.folder, context, fetch)
        run.results.write_trials()
    with run.console.status("drawing what the networks see"):
        notes += write_pictures_and_scores(run.study, run.folder, context, test=run.config.test)
    found = collect_warnings(run.study, run.results.baselines, run.folder, kept_out)
    findings = collect_findings(run.results.baselines, run.folder)
    add_findings(run.folder, findings, [*found, *notes])
    for text in [*found, *notes]:
        run.console.print(f"note: {text}", markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
