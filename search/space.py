"""The search space of pipelines: a range or some choices for every setting of every stage.

Its dataclasses are made from what the stages declare (`trainables.stages`), so a new setting of a
stage becomes a flag, a field of config.json and a dimension of the search without a change here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from typing import Annotated, Any

import docstring_parser
import tyro
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
)

from trainables.chain import declare_all, find_settings
from trainables.ranges import DIGITS, FloatRange, Space
from trainables.settings import Declared, choose, declare, is_used, restore
from trainables.stages import STAGES

Suggest = Callable[[str, BaseDistribution], Any]


def _parse_choices(words: list[str]) -> tuple[float, ...] | FloatRange:
    """Parse `LOW..HIGH` as a logarithmic range, and anything else as choices."""
    if len(words) == 1 and ".." in words[0]:
        low, high = words[0].split("..", 1)
        return FloatRange(low=float(low), high=float(high), log=True)
    return tuple(map(float, words))


def _format_choices(values: tuple[float, ...] | FloatRange) -> list[str]:
    if isinstance(values, FloatRange):
        return [f"{values.low:g}..{values.high:g}"]
    return [str(value) for value in values]


# Both share one flag: by default tyro would make a subcommand of each member of the union.
ChoicesOrRange = Annotated[
    tuple[float, ...] | FloatRange,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs="*",
        metavar="FLOAT [FLOAT ...] | LOW..HIGH",
        instance_from_str=_parse_choices,
        is_instance=lambda value: isinstance(value, tuple | FloatRange),
        str_from_instance=_format_choices,
    ),
]


def _make_space(settings: type[Any], name: str) -> type[Any]:
    """Make the dataclass of ranges for the settings of a stage or of an option."""
    parsed = docstring_parser.parse(settings.__doc__ or "")
    texts = {entry.arg_name: entry.description or "" for entry in parsed.params}
    made: list[tuple[str, Any, Any]] = []
    hints = {key: entry.hint for key, entry in _declare_own(settings).items()}
    for entry in fields(settings):
        if "options" in entry.metadata:
            for option, kind in entry.metadata["options"].items():
                if fields(kind):
                    space = _make_space(kind, f"{name}{option.capitalize()}")
                    made.append((option, space, field(default_factory=space)))
            continue
        default: Space = entry.metadata["space"]
        hint: Any = FloatRange
        if not isinstance(default, FloatRange):
            hint = _choices_of(hints[entry.name])
        text = " ".join(texts.get(entry.name, "").split())
        shown: Any = Annotated[hint, tyro.conf.arg(help=text)]
        made.append((entry.name, shown, field(default_factory=functools.partial(_get, default))))
    return _make_class(name, made)


def _make_class(name: str, entries: list[tuple[str, Any, Any]]) -> type[Any]:
    """Make a dataclass that is pickled by its name, as if it were written in this module.

    Otherwise cloudpickle copies the class, and the copy damages the original where it is unpickled.
    """
    made = make_dataclass(name, entries, frozen=True, kw_only=True, slots=True)
    made.__module__ = __name__
    globals()[name] = made
    return made


def _get(space: Space) -> Space:
    return space


def _choices_of(hint: Any) -> Any:
    return ChoicesOrRange if hint is float else tuple[hint, ...]


def _declare_own(settings: type[Any]) -> Mapping[str, Declared]:
    """Return the settings of a dataclass itself, without those of its options."""
    return {name: entry for name, entry in declare(settings).items() if entry.choice is None}


_Stages: Any = _make_class(
    "_Stages",
    [
        (name, space, field(default_factory=space))
        for name, stage in STAGES.items()
        if fields(stage.Settings)
        for space in [_make_space(stage.Settings, f"{name.capitalize()}Space")]
    ],
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchSpace(_Stages):  # type: ignore[misc]
    """Search space of the pipelines. One choice, or low == high, fixes a setting.

    It has a field for each stage that has settings, and in that a field for each setting:
    `pruned.scope`. The settings of a distiller are grouped under its name: `distilled.dkd.beta`.
    """

    def __post_init__(self) -> None:
        for name, values in self.list_ranges(tuple(STAGES)).items():
            if isinstance(values, tuple) and (not values or len(set(values)) < len(values)):
                raise ValueError(
                    f"space.{name} needs at least one choice and no choice twice, got {values}"
                )
            if self._is_reachable(name):
                self._check(name, values)

    def _check(self, name: str, values: Space) -> None:
        """Check that the stage accepts the extreme values of a setting."""
        stage, _, setting = name.partition(".")
        declared = declare_all((stage,))[name]
        extremes = (values.low, values.high) if isinstance(values, FloatRange) else values
        for value in extremes:
            chosen = {setting: value}
            if declared.choice is not None:
                chooser, option = declared.choice
                chosen[chooser] = option
            try:
                restore(STAGES[stage].Settings, chosen)
            except ValueError as error:
                raise ValueError(f"space.{name}: {error}") from None

    def list_ranges(self, stages: Sequence[str]) -> dict[str, Space]:
        """Return the ranges and choices of all settings of the given stages, by "stage.setting"."""
        return {name: self.get_range(name) for name in declare_all(stages)}

    def get_range(self, name: str) -> Space:
        """Return the range or the choices of a setting.

        Args:
            name: Name of the setting, "stage.setting".
        """
        found: Any = self
        for part in name.split("."):
            found = getattr(found, part)
        values: Space = found
        return values

    def get_choices(self, name: str) -> tuple[Any, ...]:
        """Return the choices of a setting; an empty tuple if it has a range.

        Args:
            name: Name of the setting, "stage.setting".
        """
        values = self.get_range(name)
        return values if isinstance(values, tuple) else ()

    def _is_reachable(self, name: str) -> bool:
        """Whether a pipeline can choose the option that the setting belongs to."""
        stage = name.partition(".")[0]
        choice = declare_all((stage,))[name].choice
        if choice is None:
            return True
        values = self.get_range(f"{stage}.{choice[0]}")
        return isinstance(values, tuple) and any(choice[1] in choose(value) for value in values)

    def distributions(self, stages: Sequence[str]) -> dict[str, BaseDistribution]:
        """Return the Optuna distributions by "stage.setting", without fixed settings.

        Args:
            stages: Stages of a pipeline.
        """
        ranges = self.list_ranges(stages)
        found = {name: _distribute(r) for name, r in ranges.items() if self._is_reachable(name)}
        return {name: value for name, value in found.items() if value is not None}

    def suggest(self, stages: Sequence[str], suggest: Suggest) -> dict[str, Any]:
        """Choose the settings of a pipeline; a setting that the choices do not use is skipped.

        Args:
            stages: Stages of the pipeline.
            suggest: Function (name, distribution) -> value, called for settings that are not fixed.

        Returns:
            A value for every setting that is used, by "stage.setting".
        """
        chosen: dict[str, Any] = {}
        for stage in dict.fromkeys(stages):
            own: dict[str, Any] = {}
            for name in declare_all((stage,)):
                setting = name.removeprefix(f"{stage}.")
                if not is_used(setting, STAGES[stage].Settings, own):
                    continue
                values = self.get_range(name)
                distribution = _distribute(values)
                fixed = values.low if isinstance(values, FloatRange) else values[0]
                value = fixed if distribution is None else suggest(name, distribution)
                if isinstance(values, FloatRange) and values.step is not None:
                    value = round(value, DIGITS)
                chosen[name] = own[setting] = value
        return chosen

    def complete(self, stages: Sequence[str], params: Mapping[str, Any]) -> dict[str, Any]:
        """Add the fixed values to the suggested ones.

        Args:
            stages: Stages of the pipeline.
            params: Suggested value of every searched setting that is used. A missing one takes the
                lowest value or the first choice.
        """

        def look_up(name: str, distribution: BaseDistribution) -> Any:
            values = self.get_range(name)
            fixed = values.low if isinstance(values, FloatRange) else values[0]
            return params.get(name, fixed)

        return self.suggest(stages, look_up)

    def move_inside(self, stages: Sequence[str], chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Return the pipeline in the space that is nearest to a given one.

        Args:
            stages: Stages of the pipeline.
            chosen: Settings of the given one, "stage.setting" -> value. A missing one takes its
                default.
        """
        declared = declare_all(stages)

        def find(name: str, distribution: BaseDistribution) -> Any:
            return find_nearest(self.get_range(name), chosen.get(name, declared[name].default))

        return self.suggest(stages, find)

    def contains(self, chosen: Mapping[str, Any]) -> bool:
        """Whether a pipeline ("stage.setting" -> value) lies in the space."""
        return not self.find_outside(chosen)

    def find_outside(self, chosen: Mapping[str, Any]) -> list[str]:
        """Return the settings whose values in a pipeline lie outside the space.

        Args:
            chosen: Settings of the pipeline, "stage.setting" -> value.
        """
        outside = []
        for name, value in chosen.items():
            values = self.get_range(name)
            inside = values.contains(value) if isinstance(values, FloatRange) else value in values
            if not inside:
                outside.append(name)
        return outside


def make_space(stages: Sequence[str] = tuple(STAGES), **ranges: Space) -> SearchSpace:
    """Make a space from short names: `make_space(pruning_ratio=FloatRange(...), lr=...)`.

    Args:
        stages: Stages whose settings can be named.
        ranges: Range or choices by short name; other settings keep what their stage declares. A
            setting of distillers is set in every distiller that has it.

    Raises:
        ValueError: A name is unknown, or a stage does not allow the values.
    """
    given: dict[str, Space] = {}
    for short, values in ranges.items():
        names = find_settings(stages, short)
        if not names:
            raise ValueError(f"unknown setting {short}")
        given |= dict.fromkeys(names, values)
    return set_ranges(SearchSpace(), given)


def set_ranges(space: SearchSpace, given: Mapping[str, Space]) -> SearchSpace:
    """Return a space in which some ranges are replaced.

    Args:
        space: Space to start from; not modified.
        given: New range or choices by "stage.setting".

    Raises:
        ValueError: A stage does not allow the values.
    """
    changed: Any = space
    tree: dict[str, Any] = {}
    for name, values in given.items():
        *folders, leaf = name.split(".")
        branch = tree
        for folder in folders:
            branch = branch.setdefault(folder, {})
        branch[leaf] = values
    made: SearchSpace = _replace_deep(changed, tree)
    return made


def find_nearest(values: Space, wanted: Any) -> Any:
    """Return the value of a range that is nearest to a wanted one.

    Args:
        values: Range or choices. If the choices are no numbers, the first one replaces a value that
            is not among them.
        wanted: Wanted value; it is returned if it lies inside.
    """
    inside: tuple[Any, ...]
    if isinstance(values, FloatRange):
        inside = values.values() or (min(max(wanted, values.low), values.high),)
    else:
        inside = values
    if wanted in inside:
        return wanted
    if not all(isinstance(value, int | float) for value in (wanted, *inside)):
        return inside[0]
    return min(inside, key=lambda value: abs(value - wanted))


def _replace_deep(node: Any, tree: Mapping[str, Any]) -> Any:
    changes = {
        name: _replace_deep(getattr(node, name), value) if isinstance(value, dict) else value
        for name, value in tree.items()
    }
    return replace(node, **changes)


def _distribute(values: Space) -> BaseDistribution | None:
    """Return Optuna's distribution for a range or choices; None if there is only one value."""
    if isinstance(values, FloatRange):
        if values.low == values.high:
            return None
        return FloatDistribution(values.low, values.high, log=values.log, step=values.step)
    return CategoricalDistribution(values) if len(values) > 1 else None
