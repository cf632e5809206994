"""What every stage is: settings, parents, a content key, and a computation in a folder."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.context import StageContext
from trainables.store import Artifact, ArtifactStore, content_key
from trainables.training_state import TrainingStateError

logger = logging.getLogger(__name__)


class Stage(ABC):
    """A node of the tree of stages.

    Two stages of equal content have equal keys, whatever study or machine they belong to, and are
    computed once per store.

    Attributes:
        name: First part of the artefact's folder.
        version: Counts changes of the code that change the result; part of the key.
        parents: Stages whose artefacts this one reads, by role.
    """

    name: str
    version: int = 1
    parents: Mapping[str, Stage]

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

    @property
    def key(self) -> str:
        """Hash of the content, the parents' keys and the version."""
        parents = {role: parent.key for role, parent in self.parents.items()}
        return content_key([self.name, self.version, self.content(), parents])

    def obtain(self, store: ArtifactStore, context: StageContext) -> Artifact:
        """Find the artefact or compute it, parents first.

        Args:
            store: Where artefacts lie.
            context: Machine, folders and progress report.

        Raises:
            Exception: Whatever the work raises.
        """
        key = self.key
        found = store.find(self.name, key)
        if found is not None:
            return found
        parents = {role: parent.obtain(store, context) for role, parent in self.parents.items()}
        try:
            return store.obtain(self.name, key, lambda path: self.compute(path, parents, context))
        except TrainingStateError as error:
            logger.warning("%s; the stage starts anew", error)
            store.discard_partial(self.name, key)
            return store.obtain(self.name, key, lambda path: self.compute(path, parents, context))
