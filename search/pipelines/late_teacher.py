"""When to train a separate teacher that the first pipelines do not need."""

from __future__ import annotations

from collections.abc import Mapping

from search.pipelines.stage_tree import StageTree, Task
from trainables.chain import Chain
from trainables.stages.teacher import TeacherStage


class LateTeacher:
    """Knows what waits for the training of a teacher that is not needed at once.

    It is trained beside the students if there is room. Otherwise it waits until a pipeline needs
    it, so that the first chains of networks show the front early. If no pipeline needs it, it is
    the last of the uncompressed networks that the report compares.

    Args:
        tree: Tree of the study's stages.
        baselines: Chains of the uncompressed networks by name; one is the teacher's.
    """

    def __init__(self, tree: StageTree, baselines: Mapping[str, Chain]) -> None:
        self._tree = tree
        self._root = baselines[TeacherStage.name][:1]
        names = baselines.keys() - {TeacherStage.name}
        self._students = [baselines[name][:1] for name in sorted(names)]

    def is_trained_by(self, task: Task) -> bool:
        """Whether a stage is the teacher's training."""
        return task.chain == self._root

    @property
    def is_left(self) -> bool:
        """Whether its training is still to start."""
        return bool(self._tree.list_claims(self._root))

    @property
    def pipelines(self) -> tuple[int, ...]:
        """Open pipelines that wait for its training to start."""
        claims = self._tree.list_claims(self._root)
        return tuple(name for name in claims if isinstance(name, int))

    @property
    def is_every_student_ahead(self) -> bool:
        """Whether the trainings of all students have started."""
        return not any(self._tree.list_claims(student) for student in self._students)
