"""A run in object storage; its driver works in a local copy and uploads what changes."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from models.files.atomic_file import write_atomically
from search.config import CONFIG_FILE, StudyConfig, load_config
from search.pipelines.retrainings import CONFIRMATION_FILE
from search.pipelines.study import JOURNAL_FILE
from search.run_files.driver_lease import LEASE_FILE, DriverLease, repeated
from search.run_files.results import METADATA_FILE, TRIALS_FILE
from search.run_files.run_folder import ESTIMATE_FILE, TUNE_FOLDER, create_run_folder
from trainables.artifacts.remote_folder import RemoteFolder, StorageError
from trainables.artifacts.remote_stages import STAGES_FOLDER, RemoteStages
from trainables.artifacts.store import ArtifactStore, content_key

logger = logging.getLogger(__name__)

COPIES_FOLDER = "runs"
START_PATIENCE_SECONDS = 5.0  # at the start, a storage that fails is reported soon
SYNC_SECONDS = 1.0
REST_PER_WORK, LONGEST_REST_SECONDS = 10.0, 30.0  # the longer an upload takes, the rarer it is
# The journal is uploaded first, because the other files follow from it.
TEST_FILE = "test.csv"
FILES = (
    JOURNAL_FILE, CONFIG_FILE, METADATA_FILE, TRIALS_FILE, CONFIRMATION_FILE, TEST_FILE,
    ESTIMATE_FILE,
)  # fmt: skip
FOLDERS = ("report", "stalls", "pictures", "deploy")


class RemoteRun:
    """Holds a run in storage for this driver.

    Workers upload the stages' artefacts themselves. The driver's small files are uploaded from its
    copy within seconds, later if the storage does not answer, and in any case at the end. `tune/`
    and `ray.log` stay in the copy, because nothing reads them again.

    Args:
        remote: Folder of the run in storage.
        folder: The driver's copy of it.
        store: URI of the store that studies share; None if the run has its own.

    Attributes:
        remote: The argument `remote`.
        folder: The argument `folder`.
        store: Remote folder of the stages' artefacts.
        stages: The stages in that folder.
    """

    def __init__(self, remote: RemoteFolder, folder: Path, store: str | None = None) -> None:
        self.remote = remote
        self.folder = folder
        self.store = remote / STAGES_FOLDER if store is None else RemoteFolder(store)
        self.stages = RemoteStages(self.store)
        self._lease = DriverLease(remote)
        self._brought: dict[str, tuple[int, int]] = {}
        self._rests_until = 0.0
        self._is_behind = False

    @property
    def is_lost(self) -> bool:
        """Whether another driver has taken over the run; this one then uploads nothing more."""
        return self._lease.is_lost

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the run's lease, update the copy, and then upload changes until the exit.

        Raises:
            ValueError: Another driver has the run.
            StorageError: The storage does not answer; the copy has the files that it lacks.
        """
        with self._lease.held():
            self._fetch()
            try:
                with repeated(self._sync_quietly, SYNC_SECONDS):
                    yield
            finally:
                self.sync(self.remote)

    def sync(self, remote: RemoteFolder) -> None:
        """Upload every small file that has changed.

        Args:
            remote: The run's folder, with any patience.

        Raises:
            StorageError: The storage does not answer.
        """
        for path in self._small_files():
            if self.is_lost:
                return
            with suppress(FileNotFoundError):  # the report may just have replaced its files
                status = path.stat()
                mark = (status.st_mtime_ns, status.st_size)
                name = path.relative_to(self.folder).as_posix()
                if self._brought.get(name) != mark:
                    remote.put(path, name)
                    self._brought[name] = mark

    def remove(self) -> None:
        """Delete the small files of a run that has no stages yet.

        Raises:
            StorageError: The storage does not answer.
        """
        for name in FILES:
            self.remote.delete(name)

    def fetch_networks(self, names: Sequence[str]) -> None:
        """Fetch networks to the copy, for the report and the files to deploy.

        Args:
            names: Folders of the networks, or of the files made from them.
        """
        store = ArtifactStore(self.folder / STAGES_FOLDER, self.stages)
        try:
            for network in names:
                stage, _, key = network.partition("-")
                if store.find(stage, key) is None:
                    logger.warning("the network %s is not in storage", network)
        except StorageError as error:
            logger.warning("the networks of the front could not be fetched: %s", error)

    def _sync_quietly(self) -> None:
        started = time.monotonic()
        if started < self._rests_until:
            return
        try:
            self.sync(self.remote.with_patience(0))
            self._is_behind = False
        except OSError as error:
            if not self._is_behind:
                logger.warning("the run continues; its files will be uploaded later: %s", error)
            self._is_behind = True
        ended = time.monotonic()
        rest = min(LONGEST_REST_SECONDS, REST_PER_WORK * (ended - started))
        self._rests_until = ended + rest

    def _small_files(self) -> Iterator[Path]:
        yield from (self.folder / name for name in FILES)
        for folder in FOLDERS:
            for path in sorted((self.folder / folder).rglob("*")):
                inside = path.relative_to(self.folder)
                is_complete = not any(each.suffix == ".partial" for each in inside.parents)
                if is_complete and path.is_file():
                    yield path

    def _fetch(self) -> None:
        """Update the copy; it is newer than the storage if its journal extends the one there."""
        there = [
            name
            for name in self.remote.list()
            if name.partition("/")[0] != STAGES_FOLDER and name != LEASE_FILE
        ]
        is_newer = _is_newer(self.folder, self.remote)
        for name in there:
            local = self.folder / name
            if not (is_newer and local.exists()):
                self.remote.fetch(name, local)


def _is_newer(copy: Path, remote: RemoteFolder) -> bool:
    """Whether the journal of a copy extends, or equals, the one in storage."""
    journal = copy / JOURNAL_FILE
    if not (journal.exists() and remote.exists(JOURNAL_FILE)):
        return False
    content = remote.read(JOURNAL_FILE)
    whole = content[: content.rfind(b"\n") + 1]  # the last line may be incomplete
    return journal.read_bytes().startswith(whole)


def connect(uri: str) -> RemoteFolder:
    """Open a folder in storage after checking that it can be written, read and deleted in.

    Raises:
        ValueError: The storage cannot be used; the message says why.
    """
    try:
        remote = RemoteFolder(uri)
        remote.with_patience(START_PATIENCE_SECONDS).check()
    except (OSError, NotImplementedError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"the storage cannot be used: {reason}") from None
    return remote


def create_remote_run(remote: RemoteFolder, config: StudyConfig) -> RemoteRun:
    """Create a run in a folder in storage, and the driver's copy.

    Args:
        remote: Folder opened by `connect`.
        config: Configuration of the study.

    Raises:
        ValueError: The copy cannot be written, or a run of this name exists.
    """
    copy = create_run_folder(_copies_dir(remote, config), config)
    run = remote / copy.name
    if run.exists(CONFIG_FILE):
        raise ValueError(
            f"{run.uri} already exists: another driver created it in this second; start again"
        )
    return RemoteRun(run, copy, config.store)


def find_remote_run(uri: str) -> RemoteRun:
    """Find an existing run in storage, and fetch only its config.json, unless the copy is newer.

    Raises:
        ValueError: The storage cannot be used, or there is no run.
    """
    remote = connect(uri)
    with TemporaryDirectory() as scratch:
        path = Path(scratch) / CONFIG_FILE
        try:
            remote.fetch(CONFIG_FILE, path)
        except FileNotFoundError:
            raise ValueError(
                f"a run's folder must contain {CONFIG_FILE}; {remote.uri} does not"
            ) from None
        config = load_config(path)
        copy = _copies_dir(remote.parent, config) / remote.name
        copy.mkdir(parents=True, exist_ok=True)
        if not ((copy / CONFIG_FILE).exists() and _is_newer(copy, remote)):
            write_atomically(copy / CONFIG_FILE, path.read_bytes())
    return RemoteRun(remote, copy, config.store)


@contextmanager
def removed_if_refused(folder: Path, run: RemoteRun | None) -> Iterator[None]:
    """Remove a new run if a ValueError says that it cannot be run, before any stage has begun.

    Args:
        folder: Folder of the run, or the driver's copy of it.
        run: The run in storage; None if it is in a local folder.
    """
    try:
        yield
    except ValueError:
        if not (folder / TUNE_FOLDER).exists():
            shutil.rmtree(folder, ignore_errors=True)
            if run is not None:
                with suppress(OSError):
                    run.remove()
        raise


def _copies_dir(remote: RemoteFolder, config: StudyConfig) -> Path:
    """Return the local folder for copies of the runs in a remote folder."""
    return config.cache_dir / COPIES_FOLDER / content_key(remote.uri)
