"""Lists image files, and resolves the folder of a data set."""

from __future__ import annotations

from pathlib import Path

from trainables.data.dataset import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def list_images(folder: Path, *, hint: str = "") -> list[Path]:
    """Return the image files of a folder, sorted by name, without hidden files.

    Raises:
        DataError: The folder is missing or contains no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: folder is missing{hint}")
    paths = sorted(path for path in folder.iterdir() if is_image_name(path.name))
    if not paths:
        raise DataError(f"{folder}: contains no image ({', '.join(IMAGE_SUFFIXES)}){hint}")
    return paths


def is_image_name(name: str) -> bool:
    """Return whether this is the name of an image file that is not hidden (as macOS's ._x.jpg)."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def require_root(name: str, root: str | Path | None, *, advice: str = "") -> Path:
    """Return the data set's folder as a path.

    Raises:
        DataError: No folder was given, or it does not exist; the message names the flag.
    """
    if root is None:
        raise DataError(
            f"data set {name!r} needs its folder: give --data-root PATH (got none){advice}"
        )
    path = Path(root).expanduser()
    if not path.is_dir():
        raise DataError(
            f"{path}: folder of data set {name!r} is missing: give another --data-root PATH{advice}"
        )
    return path
