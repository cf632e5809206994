"""Work that idle places can do for stages before the stages that these follow have run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sized

from search.pipelines.stage_tree import Task
from trainables.chain import Chain, find_structure
from trainables.stages import STAGES


class WorkAhead:
    """Lists the work of open pipelines that does not wait for a training.

    The latency of a network whose structure follows from the settings can be measured while the
    uncompressed network trains, and the teacher's logits can be cached while the student trains.
    The results go into the store, where the stages find them.

    Each structure is measured once, and the logits are cached once; on other machines the first
    stage that needs the logits computes them.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, Chain]] = deque()
        self._known: set[str] = set()

    def add(self, chain: Chain) -> None:
        """Add the work of a new pipeline."""
        for length in range(1, len(chain) + 1):
            name = _name_work(chain[:length])
            if name and name not in self._known:
                self._known.add(name)
                self._waiting.append((name, chain[:length]))

    def take(
        self, *, is_taught: bool, may_measure: bool, list_claims: Callable[[Chain], Sized]
    ) -> Task | None:
        """Return the oldest work that can be done now; None if there is none.

        Args:
            is_taught: Whether the teacher is trained.
            may_measure: Whether a stage that needs a whole device may run now.
            list_claims: Function that lists what waits for the last stage of a chain to start.
        """
        for _ in range(len(self._waiting)):
            name, chain = self._waiting.popleft()
            stage = STAGES[chain[-1].stage]
            if not list_claims(chain):
                continue
            is_early = stage.prepares_from == "teacher" and not is_taught
            if is_early or (stage.is_exclusive and not may_measure):
                self._waiting.append((name, chain))
                continue
            return Task(f"ahead {name}", chain, f"{name} ahead", is_ahead=True)
        return None


def _name_work(chain: Chain) -> str:
    """Name the work that the last stage of a chain can do ahead, "" if there is none."""
    stage = STAGES[chain[-1].stage]
    if stage.prepares_from == "teacher":
        return "teacher logits" if stage.needs_teacher(chain[-1].settings) else ""
    structure = find_structure(chain[:-1]) if stage.prepares_from == "structure" else None
    return "" if structure is None else f"{stage.name} {structure}"
