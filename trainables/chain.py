"""A pipeline as a chain of steps, and as one flat mapping of what it chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from trainables.pipeline_config import DEFAULT_STAGES
from trainables.settings import Declared, declare, flatten, is_used, restore
from trainables.stages import STAGES, NetworkStage


class Step(NamedTuple):
    """A stage and what a pipeline chooses for it.

    Attributes:
        stage: Name of the stage, a key of `STAGES`.
        settings: An instance of the stage's `Settings`.
    """

    stage: str
    settings: Any


Chain = tuple[Step, ...]
"""A pipeline, root first; or the part of one that continues another."""

ChainSettings = Mapping[str, Any]
"""What a chain chooses: "stage.setting" -> value, such as "pruned.pruning_ratio" -> 0.5."""

Prefix = tuple[tuple[str, Any], ...]
"""What a chain chooses as sorted pairs, so that chains can be compared and collected."""


def build_chain(stages: Sequence[str], chosen: ChainSettings) -> Chain:
    """Build a chain from what it chooses; what is left out has its default.

    Args:
        stages: Names of the stages, root first.
        chosen: Values by "stage.setting"; each stage may be there once.

    Raises:
        ValueError: Names the setting that is unknown, not used, or has a value that is not allowed.
    """
    if unknown := [name for name in chosen if name.partition(".")[0] not in stages]:
        known = ", ".join(declare_all(stages))
        raise ValueError(f"unknown setting {', '.join(unknown)}; known are {known}")
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
        chosen: Values by short name; what is left out is what the papers chose.

    Raises:
        ValueError: As `build_chain`.
    """
    return build_chain(stages, resolve_names(stages, chosen))


def make_settings(stages: Sequence[str] = DEFAULT_STAGES, **chosen: Any) -> dict[str, Any]:
    """What a chain of `make_chain` chooses, "stage.setting" -> value."""
    return flatten_chain(make_chain(stages, **chosen))


def flatten_chain(chain: Sequence[Step]) -> dict[str, Any]:
    """What a chain chooses; of a stage that is there twice, what its last step chooses."""
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
    """Make sure that stages can follow each other.

    Args:
        stages: Names, root first.

    Raises:
        ValueError: Names the stage that cannot stand where it does, and what it can follow.
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


def freeze(chosen: ChainSettings) -> Prefix:
    """What a chain chooses, in a form that can be a member of a set."""
    return tuple(sorted(chosen.items()))


def resolve_names(stages: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Replace short names of settings by full ones: "pruning_ratio" by "pruned.pruning_ratio".

    A short name stands for the setting of that name in every stage that has one; among the settings
    of options (such as the distiller's), in those of every option that is chosen.

    Args:
        stages: Names of the stages.
        given: Values by short or full name.

    Raises:
        ValueError: No setting has the name, or none that is used.
    """
    declared = declare_all(stages)
    full = {name: value for name, value in given.items() if name in declared}
    short = {name: value for name, value in given.items() if name not in declared}
    for is_option in (False, True):  # what chooses an option comes before the option's settings
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
            raise ValueError(f"{kind} setting {name}; known here are {known}")
    return full


def find_settings(stages: Sequence[str], short: str) -> list[str]:
    """Full names of the settings that a short name may stand for."""
    return [name for name in declare_all(stages) if name.rpartition(".")[2] == short]


def list_choosers(stages: Sequence[str]) -> list[str]:
    """Full names of the settings that choose options with settings of their own."""
    return list(
        dict.fromkeys(
            f"{name.partition('.')[0]}.{entry.choice[0]}"
            for name, entry in declare_all(stages).items()
            if entry.choice is not None
        )
    )


def describe_settings(chosen: ChainSettings) -> str:
    """What a chain chooses in one line: "λ 1e-05, p 0.5, local, lr 0.01, T 4, ...".

    Settings at the only choice that their stage declares are left out.
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
