"""The code of a user's networks, brought to machines that lack it."""

from __future__ import annotations

import hashlib
import importlib
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.resolving import canonical_name, is_file, place, split_name
from models.user_code import find_user_code, hash_present_code, hash_user_code
from trainables.process.machine_errors import SurroundingsError

CODE_FOLDER = "code"


@dataclass(frozen=True, kw_only=True, slots=True)
class ShippedCode:
    """The files of all networks of a study that are the user's own.

    Attributes:
        hashes: Hash of the code of each network, by its name.
        files: Content by path below the folder that they are written to. Packages lie at its
            root, as on Python's path; a file that is named by its path lies in a folder of its
            own, with the modules beside it.
        places: For each file that is named by its path where it is in `files`.
    """

    hashes: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """16 hexadecimal digits over all files."""
        digest = hashlib.sha256()
        for path, content in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Write all files below a folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def pack_code(names: Iterable[str]) -> ShippedCode:
    """Read the code of those networks that are the user's own.

    Args:
        names: As `models.create_model` takes them. Their modules are imported.

    Raises:
        ValueError: One cannot be imported; the message says why.
    """
    hashes: dict[str, str] = {}
    files: dict[str, bytes] = {}
    places: dict[str, str] = {}
    for name in sorted(set(names)):
        code = find_user_code(name)
        if code is None:
            continue
        name = canonical_name(name)
        module, _ = split_name(name)
        hashes[name] = code.compute_hash()
        folder = ""
        if is_file(module):
            folder = f"file-{hashes[name]}/"
            places[module] = folder + Path(module).name
        files |= {folder + path: content for path, content in code.read().items()}
    return ShippedCode(hashes=hashes, files=files, places=places)


def unpack_code(code: ShippedCode, cache_dir: Path) -> None:
    """Let this process import the networks, from their own places if the same code is there.

    Otherwise it is written below the cache folder, and goes before whatever else has its name.

    Args:
        code: From the driver's `pack_code`.
        cache_dir: Of this machine.

    Raises:
        OSError: The files cannot be written.
    """
    if all(hash_present_code(name) == wanted for name, wanted in code.hashes.items()):
        return
    folder = cache_dir.absolute() / CODE_FOLDER / code.key
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        written = Path(tempfile.mkdtemp(dir=folder.parent))
        code.write(written)
        try:
            written.rename(folder)
        except OSError:  # another process was first
            shutil.rmtree(written)
            if not folder.is_dir():
                raise
    for module, path in code.places.items():
        place(module, folder / path)
    for needed in (folder, *((folder / path).parent for path in code.places.values())):
        if str(needed) not in sys.path:
            sys.path.insert(0, str(needed))
    importlib.invalidate_caches()


def find_code_problems(code: ShippedCode, cache_dir: Path) -> Iterator[str]:
    """Bring the code here and import it; say what does not work, and what to do about it.

    Args:
        code: From the driver's `pack_code`.
        cache_dir: Of this machine.
    """
    try:
        unpack_code(code, cache_dir)
    except OSError as error:
        yield f"cannot keep the code of your network in {cache_dir}: {error}; choose a --cache-dir"
        return
    for name, wanted in code.hashes.items():
        try:
            found = hash_user_code(name)
        except (ValueError, OSError) as error:
            yield (
                f"cannot import the network {name}: {error}; what lies beside the module was "
                "brought there, install there what else it imports"
            )
            continue
        if found != wanted:
            yield (
                f"the code of {name} ({found}) is not the driver's ({wanted}); end what changes "
                f"it there, or remove {cache_dir / CODE_FOLDER}"
            )


def check_user_code(code: ShippedCode, cache_dir: Path) -> None:
    """Bring the code to this machine, and make sure that it is what is imported here.

    Raises:
        SurroundingsError: It is not; the message names this machine, the reason and the remedy.
    """
    for problem in find_code_problems(code, cache_dir):
        raise SurroundingsError(f"node {socket.gethostname()}: {problem}")
