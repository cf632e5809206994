"""Settings dataclasses as flat mappings from dotted names to values, for the settings in use.

A settings dataclass declares its fields with `trainables.ranges.setting`. If a field chooses among
options with their own settings (`trainables.ranges.options_of`), only the settings of the chosen
options are part of the mapping: `{"distiller": "kd", "kd.temperature": 4.0, ...}`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
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
        space: Default search space.
        symbol: Symbol in tables; "" if the value needs none.
        hint: Type of the value.
        choice: Name of the setting on which this one depends, and the option that must be chosen
            there; None for a setting that is always used.
    """

    default: Any
    space: Space
    symbol: str
    hint: Any
    choice: tuple[str, str] | None = None


def declare(settings: type[Any]) -> Mapping[str, Declared]:
    """List every setting of a settings dataclass, including those of all options.

    Args:
        settings: The settings dataclass.

    Returns:
        Declarations by dotted name, in the order of the fields.
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
    """Return the options that a value chooses: one, or several joined by "+"."""
    return tuple(value.split("+"))


def is_used(name: str, settings: type[Any], flat: Mapping[str, Any]) -> bool:
    """Return whether a setting is used with the chosen options.

    Args:
        name: Dotted name of a setting.
        settings: The dataclass that declares it.
        flat: Values by dotted name; missing ones have their defaults.
    """
    declared = declare(settings)
    choice = declared[name].choice
    if choice is None:
        return True
    chooser, option = choice
    return option in choose(flat.get(chooser, declared[chooser].default))


def flatten(settings: Any) -> dict[str, Any]:
    """Return the values of all settings in use, by dotted name."""
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
    """Build settings from a flat mapping; missing settings get their defaults.

    Args:
        settings: The settings dataclass.
        flat: Values by dotted name; numbers may be texts, as in a CSV file.

    Raises:
        ValueError: A setting is unknown, not used with the chosen options, or has a value that is
            not allowed; the message names it.
    """
    declared = declare(settings)
    for name in flat:
        if name not in declared:
            raise ValueError(
                f"unknown setting {name}; known settings are {', '.join(declared) or 'none'}"
            )
        if not is_used(name, settings, flat):
            chooser, option = declared[name].choice or ("", "")
            chosen = flat.get(chooser, declared[chooser].default)
            raise ValueError(f"{name} is used only if {chooser} is {option}, got {chosen}")
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
        if option in options:  # otherwise the dataclass raises an error
            prefix = f"{option}."
            given = {k.removeprefix(prefix): v for k, v in flat.items() if k.startswith(prefix)}
            restored[option] = restore(options[option], given)
    return restored


def complete_options(settings: Any) -> None:
    """Check the chosen options, and give those without settings their defaults.

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


@functools.cache
def _adapter(settings: type[Any], name: str) -> TypeAdapter[Any]:
    return TypeAdapter(get_type_hints(settings)[name])


def _convert(settings: type[Any], name: str, value: Any) -> Any:
    try:
        return _adapter(settings, name).validate_python(value)  # type: ignore[arg-type]
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]["msg"]
        raise ValueError(f"{name}: {problem[:1].lower()}{problem[1:]}, got {value!r}") from None
