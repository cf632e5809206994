"""Settings dataclasses as flat mappings: dotted name -> value, of the settings that count alone.

A settings dataclass declares its fields with `trainables.ranges.setting`. Where a field chooses
among options that have settings of their own (`trainables.ranges.options_of`), those of the chosen
options alone are part of the mapping: `{"distiller": "kd", "kd.temperature": 4.0, ...}`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import Field, dataclass, fields
from typing import Any, NamedTuple, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from trainables.ranges import Space

S = TypeVar("S")


@dataclass(frozen=True, kw_only=True, slots=True)
class NoSettings:
    """The settings of a stage that has none."""


class Declared(NamedTuple):
    """A setting as its dataclass declares it.

    Attributes:
        default: Value without a search.
        space: Where the search looks by default.
        symbol: How tables name it; "": the value speaks for itself.
        hint: Type of the value.
        choice: Name of the setting on which this one depends, and the option that must be chosen
            there; None for a setting that always counts.
    """

    default: Any
    space: Space
    symbol: str
    hint: Any
    choice: tuple[str, str] | None = None


def declare(settings: type[Any]) -> Mapping[str, Declared]:
    """List every setting of a settings dataclass, those of all options included.

    Args:
        settings: The dataclass.

    Returns:
        Dotted name -> declaration, in the order of the fields.
    """
    return _declare(settings)  # type: ignore[arg-type]  # mypy: type[Any] is no Hashable


@functools.cache
def _declare(settings: type[Any]) -> Mapping[str, Declared]:
    hints = get_type_hints(settings)
    found: dict[str, Declared] = {}
    for entry in fields(settings):
        if "options" not in entry.metadata:
            found[entry.name] = Declared(
                entry.default, entry.metadata["space"], entry.metadata["symbol"], hints[entry.name]
            )
            continue
        for option, kind in entry.metadata["options"].items():
            choice = (entry.metadata["chosen_by"], option)
            found |= {
                f"{option}.{name}": declared._replace(choice=choice)
                for name, declared in declare(kind).items()
            }
    return found


def choose(value: str) -> tuple[str, ...]:
    """Names of the options that a value chooses: one, or several joined by "+"."""
    return tuple(value.split("+"))


def is_used(name: str, settings: type[Any], flat: Mapping[str, Any]) -> bool:
    """Whether a setting counts under the options that are chosen.

    Args:
        name: Dotted name of a setting.
        settings: The dataclass that declares it.
        flat: Values by dotted name; what is missing has its default.
    """
    declared = declare(settings)
    choice = declared[name].choice
    if choice is None:
        return True
    chooser, option = choice
    return option in choose(flat.get(chooser, declared[chooser].default))


def flatten(settings: Any) -> dict[str, Any]:
    """The values of all settings that count, by dotted name."""
    flat: dict[str, Any] = {}
    for entry in fields(settings):
        value = getattr(settings, entry.name)
        if "options" in entry.metadata:
            for option, chosen in value.items():
                flat |= {f"{option}.{name}": v for name, v in flatten(chosen).items()}
        else:
            flat[entry.name] = value
    return flat


def restore(settings: type[S], flat: Mapping[str, Any]) -> S:
    """Build settings from a flat mapping; what it leaves out has its default.

    Args:
        settings: The dataclass.
        flat: Values by dotted name; numbers may be texts, as in a CSV file.

    Raises:
        ValueError: Names the setting that is unknown, not used by what is chosen, or has a value
            that is not allowed.
    """
    declared = declare(settings)
    for name in flat:
        if name not in declared:
            raise ValueError(f"unknown setting {name}; known are {', '.join(declared) or 'none'}")
        if not is_used(name, settings, flat):
            chooser, option = declared[name].choice or ("", "")
            chosen = flat.get(chooser, declared[chooser].default)
            raise ValueError(f"{name} counts only where {chooser} is {option}, not {chosen}")
    values: dict[str, Any] = {}
    for entry in fields(settings):  # type: ignore[arg-type]
        if "options" in entry.metadata:
            values[entry.name] = _restore_options(entry, values, declared, flat)
        elif entry.name in flat:
            values[entry.name] = _convert(settings, entry.name, flat[entry.name])
    return settings(**values)


def _restore_options(
    entry: Field[Any],
    values: Mapping[str, Any],
    declared: Mapping[str, Declared],
    flat: Mapping[str, Any],
) -> dict[str, Any]:
    chooser = entry.metadata["chosen_by"]
    options = entry.metadata["options"]
    restored = {}
    for option in choose(values.get(chooser, declared[chooser].default)):
        if option in options:  # else the dataclass refuses it
            prefix = f"{option}."
            given = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
            restored[option] = restore(options[option], given)
    return restored


def complete_options(settings: Any) -> None:
    """Check which options are chosen, and give those without settings their defaults.

    For the `__post_init__` of a frozen dataclass with a field from `options_of`.

    Raises:
        ValueError: An option is unknown or named twice, or settings are given that are not used.
    """
    for entry in fields(settings):
        if "options" not in entry.metadata:
            continue
        chooser, options = entry.metadata["chosen_by"], entry.metadata["options"]
        value, given = getattr(settings, chooser), getattr(settings, entry.name)
        chosen = choose(value)
        if not set(chosen) <= set(options) or len(set(chosen)) < len(chosen):
            joined = ", or several joined by +" if len(options) > 1 else ""
            raise ValueError(
                f"{chooser} must be one of {', '.join(options)}{joined}; got {value!r}"
            )
        if unused := [option for option in given if option not in chosen]:
            raise ValueError(f"{chooser} {value} has no settings of {', '.join(unused)}")
        complete = {option: given.get(option) or options[option]() for option in chosen}
        object.__setattr__(settings, entry.name, complete)


def iterate_used(settings: type[Any], flat: Mapping[str, Any]) -> Iterator[tuple[str, Declared]]:
    """Settings that count, one by one, with what chooses before what is chosen.

    Args:
        settings: The dataclass.
        flat: Values by dotted name; may be filled while this runs.
    """
    for name, declared in declare(settings).items():
        if is_used(name, settings, flat):
            yield name, declared


@functools.cache
def _adapter(settings: type[Any], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(settings)[name])


def _convert(settings: type[Any], name: str, value: Any) -> Any:
    try:
        return _adapter(settings, name).validate_python(value)  # type: ignore[arg-type]
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"{name}: {problem[:1].lower()}{problem[1:]}, got {value!r}") from None
