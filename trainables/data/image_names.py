"""Which files are images, and where a data set's folder is."""

from __future__ import annotations

from pathlib import Path

from trainables.data.dataset import DataError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")


def list_images(folder: Path, *, hint: str = "") -> list[Path]:
    """Image files of a folder, sorted by name; hidden files are left out.

    Raises:
        DataError: The folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: folder is missing{hint}")
    paths = sorted(path for path in folder.iterdir() if is_image_name(path.name))
    if not paths:
        raise DataError(f"{folder}: holds no image ({', '.join(IMAGE_SUFFIXES)}){hint}")
    return paths


def is_image_name(name: str) -> bool:
    """True for the name of an image file that is not hidden, as those of macOS (._x.jpg) are."""
    return not name.startswith(".") and name.lower().endswith(IMAGE_SUFFIXES)


def require_root(name: str, root: str | Path | None, *, advice: str = "") -> Path:
    """The data set's folder as a path.

    Raises:
        DataError: None was given, or it is not there; says how to name one.
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
