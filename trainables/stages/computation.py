"""Work with a content key: equal content is computed once per store, and found again."""

from __future__ import annotations

import functools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from trainables.artifacts.store import Artifact, ArtifactStore, content_key
from trainables.context import StageContext
from trainables.data import DataError
from trainables.learning.training_state import TrainingStateError

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Computation(ABC):
    """Work whose result is an artefact: a folder in the store, named by a content key.

    Two computations of equal content have equal keys, whatever study or machine they belong to.

    Attributes:
        name: First part of the artefact's folder.
        version: Counts changes of the code that change the result; part of the key.
        parents: Computations whose artefacts this one reads, by role.
    """

    name: str
    version: int = 1
    parents: Mapping[str, Computation]

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """JSON-able settings that the result depends on, without the parents'."""

    @abstractmethod
    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Do the work.

        Args:
            folder: Takes the files; may hold those of an interrupted attempt.
            parents: Artefacts of the parents, by role.
            context: Machine, folders and progress report.

        Returns:
            JSON-able result, with "seconds" of work among it.
        """

    def compute_share(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext, share: float
    ) -> dict[str, Any]:
        """Do a share of the work, for computations that can pause; as `compute` otherwise.

        Args:
            folder: As in `compute`; keeps the state of the unfinished work.
            parents: As in `compute`.
            context: As in `compute`.
            share: Of the whole work since its beginning, within 0..1.

        Returns:
            JSON-able result at that point.
        """
        raise NotImplementedError(f"{self.name} cannot pause")

    @functools.cached_property
    def key(self) -> str:
        """Hash of the content, the parents' keys and the version."""
        return self._find_key()

    def _find_key(self) -> str:
        parents = {role: parent.key for role, parent in self.parents.items()}
        return content_key([self.name, self.version, self.content(), parents])

    def obtain(self, store: ArtifactStore, context: StageContext) -> Artifact:
        """Find the artefact or compute it, parents first.

        Args:
            store: Where artefacts lie.
            context: Machine, folders and progress report.

        Raises:
            DataError: A file that the work is made of changed meanwhile.
            Exception: Whatever the work raises.
        """
        key = self.key
        found = store.find(self.name, key)
        if found is not None:
            return found
        parents = {role: parent.obtain(store, context) for role, parent in self.parents.items()}

        def work(path: Path) -> dict[str, Any]:
            result = self.compute(path, parents, context)
            if self._find_key() != key:  # else the artefact would stand for what it was not made of
                raise DataError(
                    f"data or weights of stage {self.name} changed while it ran; start again with "
                    "them as they are now"
                )
            return result

        return self._starting_anew(store, key, lambda: store.obtain(self.name, key, work))

    def advance(self, store: ArtifactStore, context: StageContext, share: float) -> dict[str, Any]:
        """Work up to a share of the whole and leave it unfinished there, or find what came of that.

        Args:
            store: Where artefacts lie.
            context: Machine, folders and progress report.
            share: Of the whole work, within 0..1.

        Returns:
            The result at that point.

        Raises:
            Exception: Whatever the work raises.
        """
        parents = {role: parent.obtain(store, context) for role, parent in self.parents.items()}
        key = self.key
        return self._starting_anew(
            store,
            key,
            lambda: store.advance(
                self.name,
                key,
                share,
                lambda path: self.compute_share(path, parents, context, share),
            ),
        )

    def _starting_anew(self, store: ArtifactStore, key: str, work: Callable[[], T]) -> T:
        """Do some work; if the state of an earlier attempt is damaged, without that state."""
        try:
            return work()
        except TrainingStateError as error:
            logger.warning("%s; the stage starts anew", error)
            store.discard_partial(self.name, key)
            return work()
