"""Short flags of the space: `--space.pruning-ratio.low` is `--space.pruned.pruning-ratio.low`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from search.config import StudyConfig
from trainables.chain import declare_all, find_settings, list_choosers
from trainables.settings import choose
from trainables.stages import STAGES

PREFIX = "--space."
ALL_STAGES = tuple(STAGES)  # the flags themselves may change the chain


def lengthen_flags(argv: Sequence[str], study: StudyConfig) -> list[str]:
    """Replace short flags of the space, such as `--space.pruning-ratio.low`, by full ones.

    A setting's own name is enough if only one stage has it. A setting of distillers, such as the
    temperature, is set in every distiller that the space contains.

    Args:
        argv: Words of the command line.
        study: Configuration that the recipe returned; it lists the distillers of the space if the
            flags do not.
    """
    choices = _read_choices(argv, study)
    declared = declare_all(ALL_STAGES)
    words: list[str] = []
    index = 0
    while index < len(argv):
        flag = argv[index].partition("=")[0]
        setting, _, rest = flag.removeprefix(PREFIX).replace("-", "_").partition(".")
        end = index + 1
        while end < len(argv) and not argv[end].startswith("--"):
            end += 1
        names = find_settings(ALL_STAGES, setting) if flag.startswith(PREFIX) else []
        used = [name for name in names if _is_chosen(declared[name].choice, choices)]
        tail = argv[index].removeprefix(flag[: len(PREFIX) + len(setting)])
        if not used or (rest and rest not in ("low", "high", "step", "log", "no_log")):
            words += argv[index:end]
        for name in used:
            words += [f"{PREFIX}{name.replace('_', '-')}{tail}", *argv[index + 1 : end]]
        index = end
    return words


def _read_choices(argv: Sequence[str], study: StudyConfig) -> set[str]:
    """Return the names of the options, such as distillers, that the flags or the recipe choose."""
    found: set[str] = set()
    for chooser in list_choosers(ALL_STAGES):
        flags = {
            f"--space.{name.replace('_', '-')}" for name in (chooser, chooser.rpartition(".")[2])
        }
        given: list[str] = []
        is_given = False
        for word in argv:
            flag, _, value = word.partition("=")
            if word.startswith("--"):
                is_given = flag in flags
                given += [value] if is_given and value else []
            elif is_given:
                given.append(word)
        values: Any = given or study.space.get_range(chooser)
        found |= {option for value in values for option in choose(str(value))}
    return found


def _is_chosen(choice: tuple[str, str] | None, choices: set[str]) -> bool:
    return choice is None or choice[1] in choices
