"""Finds which network was made from which, through shared stages and continued chains."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis.results import Results, Trial

FEWEST_SHARING = 2


@dataclass(kw_only=True, slots=True)
class Node:
    """A network, or a stage that several networks share, with the networks made from it.

    Attributes:
        label: Text that is shown.
        trial: Trial whose network this is; None for a shared stage.
        children: Nodes that were made from it.
    """

    label: str
    trial: Trial | None = None
    children: list[Node] = field(default_factory=list)


def get_ancestors(results: Results, trial: Trial) -> list[Trial]:
    """Return the trials that a trial continues, the nearest first.

    The chain ends at a number that no trial of the run has, or that would lead in a circle.
    """
    by_number = {other.number: other for other in results.get_run(trial).trials}
    ancestors: list[Trial] = []
    seen = {trial.number}
    while (number := trial.continues) is not None and number not in seen and number in by_number:
        seen.add(number)
        trial = by_number[number]
        ancestors.append(trial)
    return ancestors


def build_tree(results: Results, trials: Sequence[Trial]) -> list[Node]:
    """Arrange trials, and the trials that they continue, below the stages that they share.

    Args:
        results: The runs.
        trials: Trials to show, for example the members of the front.

    Returns:
        The roots: the first stage of each pipeline.
    """
    shown: dict[tuple[str, int], Trial] = {}
    for trial in trials:
        for other in (*reversed(get_ancestors(results, trial)), trial):
            shown.setdefault((other.run, other.number), other)
    nodes = {
        key: Node(label=f"Trial {results.label(trial)}", trial=trial)
        for key, trial in shown.items()
    }
    paths = {key: _own_stages(trial) for key, trial in shown.items()}
    uses = Counter((key[0], folder) for key, path in paths.items() for _, folder in path)
    roots: list[Node] = []
    stages: dict[tuple[str, str], Node] = {}
    for key, trial in sorted(shown.items()):
        ancestors = get_ancestors(results, trial)
        if ancestors:
            nodes[ancestors[0].run, ancestors[0].number].children.append(nodes[key])
            continue
        siblings = roots
        for depth, (stage, folder) in enumerate(paths[key][:-1]):
            if depth and uses[trial.run, folder] < FEWEST_SHARING:
                continue
            if (trial.run, folder) not in stages:
                node = stages[trial.run, folder] = Node(label=f"{stage} ({folder})")
                siblings.append(node)
            siblings = stages[trial.run, folder].children
        siblings.append(nodes[key])
    return roots


def _own_stages(trial: Trial) -> list[tuple[str, str]]:
    """Return the stages that made a trial's network, root first, without teacher and latency."""
    return [
        (name, folder)
        for name, folder in trial.stages.items()
        if name not in ("teacher", "latency")
    ]
