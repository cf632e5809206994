"""Resolves the name of a network to its factory, and decides whose code may be imported."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

import segmentation_models_pytorch as smp
from torchvision.models import get_model_builder, list_models, segmentation

Factory = Callable[..., Any]

TRUSTED_MODULES = "SEGFRONT_MODULES"
"""Environment variable with the packages, comma separated, that a checkpoint may name."""
LIBRARIES = ("smp", "torchvision")
OUR_PACKAGES = ("analysis", "models", "search", "trainables")

_allowed: set[str] = set()
_places: dict[str, Path] = {}


class UntrustedNetworkError(ValueError):
    """A file names code that the user did not allow; the code was not imported."""


def split_name(name: str) -> tuple[str, str]:
    """Split `package.module:factory` or `file.py:factory`; a path is made absolute.

    Raises:
        ValueError: The name has another form.
    """
    module, _, attribute = name.rpartition(":")
    if not module or not attribute:
        raise ValueError(
            "the name of your own network must be package.module:factory or "
            "path/to/file.py:factory; "
            f"got {name!r}"
        )
    return (str(Path(module).expanduser().absolute()) if is_file(module) else module), attribute


def is_foreign(name: str) -> bool:
    """Whether a name refers to a network outside `models.MODELS`."""
    return ":" in name


def is_file(module: str) -> bool:
    """Whether the part before the colon is a path rather than a module."""
    return module.endswith(".py")


def is_library(name: str) -> bool:
    """Whether a name begins with `smp:` or `torchvision:`."""
    return name.partition(":")[0] in LIBRARIES


def canonical_name(name: str) -> str:
    """Return the canonical spelling of a foreign network's name.

    Raises:
        ValueError: The name has another form, or the library has no such network.
    """
    module, attribute = split_name(name)
    if module == "smp":
        return f"smp:{_find_smp(attribute).__name__}"
    return f"{module}:{attribute}"


def allow(name: str) -> None:
    """Allow checkpoints to name this network from now on in this process."""
    if is_foreign(name):
        _allowed.add(canonical_name(name))


def find_allowed(name: str, given: Iterable[str] = ()) -> str:
    """Return what may be imported for the code that a file names, or refuse.

    Files move: the same factory of a file or module of the same last name stands for the one that
    the checkpoint names, if the user has named one such.

    Args:
        name: Name of the network in the file.
        given: Names that the caller allows.

    Raises:
        UntrustedNetworkError: The name was not allowed.
    """
    if not is_foreign(name) or is_library(name):
        return name
    module, factory = split_name(name)
    trusted = [e.strip() for e in os.environ.get(TRUSTED_MODULES, "").split(",") if e.strip()]
    if not is_file(module) and any(f"{module}.".startswith(f"{entry}.") for entry in trusted):
        return name
    files = {canonical_name(f"{entry}:{factory}") for entry in trusted if is_file(entry)}
    named = {canonical_name(n) for n in given if is_foreign(n)} | _allowed | files
    if name in named:
        return name
    alike = [entry for entry in named if _get_last_names(entry) == _get_last_names(name)]
    if len(alike) == 1:
        return alike[0]
    entry = module if is_file(module) else module.split(".")[0]
    raise UntrustedNetworkError(
        f"the file names the network {name!r}, and loading it would run that code. If you trust "
        f"it, give the factory (load_checkpoint(path, factory={name!r}), or --factory {name} where "
        f"a command has that flag) or list its package in the environment: "
        f"{TRUSTED_MODULES}={entry}"
    )


def _get_last_names(name: str) -> tuple[str, str]:
    """Return the last name of a network's module, and its factory."""
    module, factory = split_name(name)
    return (Path(module).stem if is_file(module) else module.split(".")[-1]), factory


def place(module: str, path: Path) -> None:
    """Say that what is named as a file lies elsewhere on this machine, for this process."""
    _places[module] = path


def locate(module: str) -> Path:
    """Return where what is named as a file lies on this machine."""
    return _places.get(module, Path(module))


def find_factory(name: str) -> Factory:
    """Import the factory of a foreign network.

    Raises:
        ValueError: The module or the factory does not exist or cannot be imported.
    """
    module, attribute = split_name(name)
    if module == "smp":
        return _find_smp(attribute)
    if module == "torchvision":
        known = list_models(module=segmentation)
        if attribute not in known:
            raise ValueError(f"torchvision has the networks {', '.join(known)}; got {attribute!r}")
        builder: Factory = get_model_builder(attribute)
        return builder
    found: Any = import_module(module)
    for part in attribute.split("."):
        if not hasattr(found, part):
            offered = [n for n in dir(found) if callable(getattr(found, n)) and n[0] != "_"]
            raise ValueError(
                f"{module} has no {attribute!r}; it has {', '.join(offered) or 'no callables'}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{name} must be callable, got a {type(found).__name__}")
    factory: Factory = found
    return factory


def import_module(module: str) -> ModuleType:
    """Import a module by name or from a file; both are also searched in the working folder.

    Raises:
        ValueError: The module cannot be imported; the message has the reason.
    """
    try:
        return _import_file(locate(module)) if is_file(module) else _import_package(module)
    except Exception as error:  # code of the user's raises what it likes
        hint = _explain_import(error, module) if isinstance(error, ImportError) else ""
        raise ValueError(
            f"{module} cannot be imported: {type(error).__name__}: {error}{hint}"
        ) from error


def _explain_import(error: ImportError, module: str) -> str:
    """Say what to do about a module that was not found, or was another one's."""
    top = (error.name or "").split(".")[0]
    if top in OUR_PACKAGES:
        return (
            f"; segfront has a package {top}, which goes before yours of that name: rename yours, "
            "or import relatively within a package of another name"
        )
    if isinstance(error, ModuleNotFoundError) and error.name == module.split(".")[0]:
        return (
            f"; say where it lies (PYTHONPATH=FOLDER, or start in the folder that holds {top}), or "
            "name its file: path/to/file.py:factory"
        )
    return ""


def _import_package(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        folder = str(Path.cwd())
        if error.name != module.split(".")[0] or folder in sys.path:
            raise
        sys.path.append(folder)  # `python search/run.py` puts search/ there instead
        importlib.invalidate_caches()
        return importlib.import_module(module)


def _import_file(path: Path) -> ModuleType:
    name = f"segfront_user_{abs(hash(str(path))):x}_{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.parent)
    sys.path.insert(0, folder)  # the modules beside it come first, as for a script
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    finally:
        with contextlib.suppress(ValueError):  # the module may have changed the path itself
            sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for what is imported later
    return module


def _find_smp(architecture: str) -> type:
    known: dict[str, type] = smp.MODEL_ARCHITECTURES_MAPPING
    if architecture.lower() not in known:
        names = ", ".join(entry.__name__ for entry in known.values())
        raise ValueError(f"segmentation-models-pytorch has {names}; got {architecture!r}")
    return known[architecture.lower()]
