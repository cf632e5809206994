"""A pipeline as a chain of steps, and as a flat mapping of its settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainables.pipeline_config import DEFAULT_STAGES
from trainables.settings import Declared, declare, flatten, is_used, restore
from trainables.stages import STAGES, NetworkStage


class Step(NamedTuple):
    """A stage and its settings in a pipeline.

    Attributes:
        stage: Name of the stage, a key of `STAGES`.
        settings: An instance of the stage's `Settings`.
    """

    stage: str
    settings: Any


Chain = tuple[Step, ...]
"""A pipeline, root first, or the part of a pipeline that continues another one."""

ChainSettings = Mapping[str, Any]
"""Settings of a chain: "stage.setting" -> value, such as "pruned.pruning_ratio" -> 0.5."""

Prefix = tuple[tuple[str, Any], ...]
"""Settings of a chain as sorted pairs, which can be compared and put into sets."""


def build_chain(stages: Sequence[str], chosen: ChainSettings) -> Chain:
    """Build a chain from its settings; missing settings get their defaults.

    Args:
        stages: Names of the stages, root first.
        chosen: Values by "stage.setting"; each stage may occur once.

    Raises:
        ValueError: A setting is unknown, unused, or has a value that is not allowed; the message
            names it.
    """
    if unknown := [name for name in chosen if name.partition(".")[0] not in stages]:
        known = ", ".join(declare_all(stages))
        raise ValueError(f"unknown setting {', '.join(unknown)}; known settings are {known}")
    steps = []
    for stage in stages:
        prefix = f"{stage}."
        own = {k.removeprefix(prefix): v for k, v in chosen.items() if k.startswith(prefix)}
        try:
            steps.append(Step(stage, restore(STAGES[stage].Settings, own)))
        except ValueError as error:
            raise ValueError(f"{stage}: {error}") from None
    return tuple(steps)


def make_chain(stages: Sequence[str] = DEFAULT_STAGES, **chosen: Any) -> Chain:
    """Build a chain from short names, such as `make_chain(pruning_ratio=0.3, temperature=2.0)`.

    Args:
        stages: Names of the stages, root first.
        chosen: Values by short name; missing settings get the papers' values.

    Raises:
        ValueError: As for `build_chain`.
    """
    return build_chain(stages, resolve_names(stages, chosen))


def make_settings(stages: Sequence[str] = DEFAULT_STAGES, **chosen: Any) -> dict[str, Any]:
    """Return the settings of a chain from `make_chain`, "stage.setting" -> value."""
    return flatten_chain(make_chain(stages, **chosen))


def flatten_chain(chain: Sequence[Step]) -> dict[str, Any]:
    """Return the settings of a chain; for a stage that occurs twice, those of its last step."""
    return {
        f"{stage}.{name}": value
        for stage, settings in chain
        for name, value in flatten(settings).items()
    }


def declare_all(stages: Sequence[str]) -> dict[str, Declared]:
    """List all settings of some stages by "stage.setting"."""
    return {
        f"{stage}.{name}": declared
        for stage in dict.fromkeys(stages)
        for name, declared in declare(STAGES[stage].Settings).items()
    }


def check_stages(stages: Sequence[str]) -> None:
    """Check that the stages can follow each other.

    Args:
        stages: Names of the stages, root first.

    Raises:
        ValueError: A stage cannot follow the one before it; the message names it and what it can
            follow.
    """
    network = ""
    for stage in stages:
        if stage not in STAGES:
            raise ValueError(f"stage must be one of {', '.join(STAGES)}; got {stage!r}")
        follows = STAGES[stage].follows
        if network not in (follows or ("",)):
            can = f"can follow {', '.join(follows)}" if follows else "can only come first"
            raise ValueError(f"stage {stage} {can}; got {', '.join(stages)}")
        if issubclass(STAGES[stage], NetworkStage):
            network = stage
    if not network:
        raise ValueError("a pipeline needs at least one stage that makes a network")


def find_structure(chain: Chain) -> str | None:
    """Describe the structure of a chain's network, as far as the settings decide it.

    Args:
        chain: Steps, root first.

    Returns:
        Equal texts for equal structures; None if the structure depends on the weights.
    """
    parts = [
        STAGES[stage].describe_structure(settings)
        for stage, settings in chain
        if issubclass(STAGES[stage], NetworkStage)
    ]
    known = [part for part in parts if part is not None]
    return " ".join(filter(None, known)) if len(known) == len(parts) else None


def freeze(chosen: ChainSettings) -> Prefix:
    """Return the settings of a chain in hashable form."""
    return tuple(sorted(chosen.items()))


def resolve_names(stages: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Replace short names of settings by full ones, such as "pruned.pruning_ratio".

    A short name stands for the setting of that name in every stage that has one. For settings of
    options (such as those of a distiller), it applies to every chosen option.

    Args:
        stages: Names of the stages.
        given: Values by short or full name.

    Raises:
        ValueError: A name is unknown, or its setting is not used.
    """
    declared = declare_all(stages)
    full = {name: value for name, value in given.items() if name in declared}
    short = {name: value for name, value in given.items() if name not in declared}
    for is_option in (False, True):  # an option is chosen before its own settings are resolved
        for name, value in short.items():
            for candidate in find_settings(stages, name):
                if (declared[candidate].choice is not None) is is_option and _is_used(
                    candidate, full
                ):
                    full.setdefault(candidate, value)
    for name in short:
        if not any(candidate in full for candidate in find_settings(stages, name)):
            known = ", ".join(_shorten(declared, full))
            kind = "unused" if find_settings(stages, name) else "unknown"
            raise ValueError(f"{kind} setting {name}; known settings here are {known}")
    return full


def override_settings(
    stages: Sequence[str], defaults: ChainSettings, given: Mapping[str, Any]
) -> dict[str, Any]:
    """Replace default settings by given ones, and drop defaults that are then not used.

    Args:
        stages: Names of the stages.
        defaults: Values by full name.
        given: Values by short or full name; a short name replaces every default that it stands for.

    Raises:
        ValueError: As for `resolve_names`.
    """
    kept = {name: v for name, v in defaults.items() if name.rpartition(".")[2] not in given}
    full = resolve_names(stages, {**kept, **given})
    return {name: v for name, v in full.items() if name in given or _is_used(name, full)}


def find_settings(stages: Sequence[str], short: str) -> list[str]:
    """Return the full names of the settings that a short name may stand for."""
    return [name for name in declare_all(stages) if name.rpartition(".")[2] == short]


def list_choosers(stages: Sequence[str]) -> list[str]:
    """Return the full names of the settings that choose options that have settings themselves."""
    return list(
        dict.fromkeys(
            f"{name.partition('.')[0]}.{entry.choice[0]}"
            for name, entry in declare_all(stages).items()
            if entry.choice is not None
        )
    )


def describe_settings(chosen: ChainSettings) -> str:
    """Describe the settings of a chain in one line: "λ 1e-05, p 0.5, local, lr 0.01, T 4, ...".

    Settings with only one possible value are left out.
    """
    declared = declare_all(tuple(STAGES))
    texts = []
    for name, value in chosen.items():
        if declared[name].space != (value,):
            text = f"{value:.3g}" if isinstance(value, float) else str(value)
            texts.append(f"{declared[name].symbol} {text}".strip())
    return ", ".join(texts)


def _is_used(name: str, chosen: ChainSettings) -> bool:
    stage, _, setting = name.partition(".")
    prefix = f"{stage}."
    own = {k.removeprefix(prefix): v for k, v in chosen.items() if k.startswith(prefix)}
    return is_used(setting, STAGES[stage].Settings, own)


def _shorten(declared: Mapping[str, Declared], chosen: ChainSettings) -> list[str]:
    used = (name for name in declared if _is_used(name, chosen))
    return list(dict.fromkeys(name.rpartition(".")[2] for name in used))
