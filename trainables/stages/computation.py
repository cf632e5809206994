"""Work with a content key: equal content is computed once per store and then reused."""

from __future__ import annotations

import functools
import logging
import tempfile
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

    Two computations with equal content have equal keys, in any study and on any machine.

    Attributes:
        name: First part of the artefact's folder.
        version: Version of the code, raised when a change of the code changes the result; part of
            the key.
        parents: Computations whose artefacts this one reads, by role.
    """

    name: str
    version: int = 1
    parents: Mapping[str, Computation]

    @abstractmethod
    def content(self) -> dict[str, Any]:
        """Return everything that the result depends on except the parents, JSON-serialisable."""

    @abstractmethod
    def compute(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext
    ) -> dict[str, Any]:
        """Do the work.

        Args:
            folder: Folder for the files; may contain files of an interrupted attempt.
            parents: Artefacts of the parents, by role.
            context: Machine, folders and progress report.

        Returns:
            The JSON-serialisable result, including "seconds" of work.
        """

    def compute_share(
        self, folder: Path, parents: Mapping[str, Artifact], context: StageContext, share: float
    ) -> dict[str, Any]:
        """Do a fraction of the work, for computations that can pause; otherwise like `compute`.

        Args:
            folder: As in `compute`; also keeps the state of the unfinished work.
            parents: As in `compute`.
            context: As in `compute`.
            share: Fraction of the whole work, counted from its beginning, in 0..1.

        Returns:
            The JSON-serialisable result at that point.
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
        """Reuse the artefact or compute it, parents first.

        Args:
            store: Store of the artefacts.
            context: Machine, folders and progress report.

        Raises:
            DataError: An input file changed during the work.
            Exception: Whatever the work raises.
        """
        key = self.key
        found = store.find(self.name, key)
        if found is not None:
            return found
        parents = self._obtain_parents(store, context)

        def work(path: Path) -> dict[str, Any]:
            with context.helpers():
                result = self.compute(path, parents, context)
            if self._find_key() != key:  # otherwise the key would not match the inputs
                raise DataError(
                    f"data or weights of stage {self.name} changed while it ran; start again with "
                    "them as they are now"
                )
            return result

        return self._starting_anew(store, key, lambda: store.obtain(self.name, key, work))

    def advance(self, store: ArtifactStore, context: StageContext, share: float) -> dict[str, Any]:
        """Work up to a fraction of the whole and pause there, or reuse the result at that point.

        Args:
            store: Store of the artefacts.
            context: Machine, folders and progress report.
            share: Fraction of the whole work, in 0..1.

        Returns:
            The result at that point.

        Raises:
            Exception: Whatever the work raises.
        """
        parents = self._obtain_parents(store, context)
        key = self.key

        def work(path: Path) -> dict[str, Any]:
            with context.helpers():
                return self.compute_share(path, parents, context, share)

        return self._starting_anew(store, key, lambda: store.advance(self.name, key, share, work))

    def assist(self, store: ArtifactStore, context: StageContext, share: float = 1.0) -> None:
        """Compute together with the process that obtains or advances this and keeps the result.

        Args:
            store: Store that has the parents.
            context: Machine and folders of this process.
            share: Share of the whole work, within 0..1; 1: all of it.

        Raises:
            LookupError: The store lacks a parent.
            Exception: Whatever the work raises.
        """
        parents = {}
        for role, parent in self.parents.items():
            found = store.find(parent.name, parent.key)
            if found is None:
                raise LookupError(f"{parent.name}-{parent.key} is not in the store {store.root}")
            parents[role] = found
        with tempfile.TemporaryDirectory() as folder:
            if share < 1:
                self.compute_share(Path(folder), parents, context, share)
            else:
                self.compute(Path(folder), parents, context)

    def _obtain_parents(self, store: ArtifactStore, context: StageContext) -> dict[str, Artifact]:
        alone = context.alone()
        return {role: parent.obtain(store, alone) for role, parent in self.parents.items()}

    def _starting_anew(self, store: ArtifactStore, key: str, work: Callable[[], T]) -> T:
        """Run some work; if the state of an earlier attempt is damaged, start again without it."""
        try:
            return work()
        except TrainingStateError as error:
            logger.warning("%s; the stage starts anew", error)
            store.discard_partial(self.name, key)
            return work()
