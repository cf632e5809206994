"""Resolves the name of a network to its factory, and decides whose code may be imported."""

from __future__ import annotations

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

_allowed: set[str] = set()


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


def check_allowed(name: str, given: Iterable[str] = ()) -> None:
    """Raise an error for code that a file names and the user has not allowed.

    Args:
        name: Name of the network in the file.
        given: Names that the caller allows.

    Raises:
        UntrustedNetworkError: The name was not allowed.
    """
    if not is_foreign(name) or is_library(name):
        return
    module, _ = split_name(name)
    trusted = [e.strip() for e in os.environ.get(TRUSTED_MODULES, "").split(",") if e.strip()]
    is_trusted = (
        str(Path(module)) in {str(Path(e).expanduser().absolute()) for e in trusted if is_file(e)}
        if is_file(module)
        else any(module == entry or module.startswith(f"{entry}.") for entry in trusted)
    )
    if not (is_trusted or name in _allowed or name in {canonical_name(n) for n in given}):
        entry = module if is_file(module) else module.split(".")[0]
        raise UntrustedNetworkError(
            f"the file names the network {name!r}, and loading it would run that code. If you "
            f"trust it, give the factory (load_checkpoint(path, factory={name!r})) or list its "
            f"package in the environment: {TRUSTED_MODULES}={entry}"
        )


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
        return _import_file(Path(module)) if is_file(module) else _import_package(module)
    except Exception as error:  # user code may raise any exception
        raise ValueError(f"{module} cannot be imported: {type(error).__name__}: {error}") from error


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
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # so that it can import modules in its folder
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _find_smp(architecture: str) -> type:
    known: dict[str, type] = smp.MODEL_ARCHITECTURES_MAPPING
    if architecture.lower() not in known:
        names = ", ".join(entry.__name__ for entry in known.values())
        raise ValueError(f"segmentation-models-pytorch has {names}; got {architecture!r}")
    return known[architecture.lower()]
