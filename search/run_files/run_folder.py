"""The folder of a run: made, found again, and held by one driver at a time."""

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


def create_run_folder(output_dir: Path, config: StudyConfig) -> Path:
    """Make `<recipe>-<date>-<time>` with its config.json.

    A run with a store that studies share has a link to it for its stages/.

    Args:
        output_dir: Made if missing.
        config: Of the study, with paths settled.

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
                f"output_dir must be a folder that can be written to; {output_dir}: "
                f"{error.strerror}"
            ) from None
        return folder
    raise ValueError(f"output_dir {output_dir} already holds 100 runs of this second")


@contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Hold the run folder; the kernel lets go when the driver ends, however it ends.

    Raises:
        ValueError: Another driver holds it, or it is no run folder.
    """
    if not (run_dir / CONFIG_FILE).is_file():
        raise ValueError(f"a run folder holds a {CONFIG_FILE}; {run_dir} does not")
    with ExitStack() as held:
        try:
            held.enter_context(file_lock.locked(run_dir / LOCK_FILE, wait=False))
        except BlockingIOError:
            raise ValueError(f"{run_dir} is in use by another driver; end that one first") from None
        yield
