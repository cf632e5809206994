"""Creates the folder of a run, and locks it for one driver at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path

from search.config import CONFIG_FILE, StudyConfig, save_config
from trainables.artifacts.remote_folder import is_uri
from trainables.artifacts.remote_stages import STAGES_FOLDER
from trainables.process import file_lock

LOCK_FILE = ".lock"
ESTIMATE_FILE = "estimate.json"
TUNE_FOLDER = "tune"  # of Tune, which makes it when the first stage starts


def create_run_folder(output_dir: Path, config: StudyConfig) -> Path:
    """Create `<recipe>-<date>-<time>` with its config.json.

    If studies share a store, the run's stages/ is a link to it.

    Args:
        output_dir: Parent folder, which is created if missing.
        config: Configuration of the study, with its paths settled.

    Raises:
        ValueError: The folder cannot be written.
    """
    stem = f"{config.recipe}-{datetime.now():%Y%m%d-%H%M%S}"
    for attempt in range(100):
        folder = output_dir / (f"{stem}-{attempt}" if attempt else stem)
        try:
            folder.mkdir(parents=True)
            if config.store is not None and not is_uri(config.store):
                (folder / STAGES_FOLDER).symlink_to(config.store, target_is_directory=True)
            save_config(config, folder / CONFIG_FILE)
        except FileExistsError:
            continue
        except OSError as error:
            raise ValueError(
                f"output_dir must be a writable folder; {output_dir}: {error.strerror}"
            ) from None
        return folder
    raise ValueError(f"output_dir {output_dir} already holds 100 runs of this second")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Lock the run's folder; the kernel releases the lock however the driver ends.

    Raises:
        ValueError: Another driver has locked the folder, or it is not a run's folder.
    """
    if not (run_dir / CONFIG_FILE).is_file():
        raise ValueError(f"a run's folder must contain {CONFIG_FILE}; {run_dir} does not")
    with ExitStack() as held:
        try:
            held.enter_context(file_lock.locked(run_dir / LOCK_FILE, wait=False))
        except BlockingIOError:
            raise ValueError(f"{run_dir} is in use by another driver; end that one first") from None
        yield
