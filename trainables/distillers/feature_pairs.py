"""Maps of the student beside those of the teacher, at one size and one width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from trainables.distillers.distiller import Lesson
from trainables.distillers.layers import Layer, find_layers, find_named, match_stages
from trainables.distillers.maps import Projections, shrink_to_common, valid_cells

# Names in the student and in the teacher; both empty: look for them
Names = tuple[tuple[str, ...], tuple[str, ...]]


class MapPair(NamedTuple):
    """Two maps that are compared.

    Attributes:
        student: (N, c, h, w) float, at least float32; c is the teacher's width if projected.
        teacher: (N, C, h, w) float, at least float32, without gradient.
        valid: (N, h, w) bool, cells that show a labelled pixel.
    """

    student: Tensor
    teacher: Tensor
    valid: Tensor


class FeaturePairs(nn.Module):
    """Which maps are compared, and the projections that bring the student's to their width.

    Args:
        pairs: Layers of the student with those of the teacher.
        projected: Whether widths must agree; else maps are compared in ways that need no such.
    """

    def __init__(self, pairs: Sequence[tuple[Layer, Layer]], *, projected: bool = True) -> None:
        super().__init__()
        self.student_layers = tuple(own for own, _ in pairs)
        self.teacher_layers = tuple(other for _, other in pairs)
        self.projections = Projections(pairs if projected else ())

    def read(self, lesson: Lesson) -> Iterator[MapPair]:
        """The maps of a batch, both averaged down to the smaller of their sizes."""
        layers = zip(self.student_layers, self.teacher_layers, strict=True)
        for index, (own, other) in enumerate(layers):
            student, teacher = shrink_to_common(
                lesson.student_features[own.key], lesson.teacher_features[other.key].detach()
            )
            valid = valid_cells(lesson.target, student.shape[-2:])
            # Averaging first and projecting then is the same, and cheaper.
            yield MapPair(self.projections.project(index, student), teacher, valid)


def pair_fusion(
    student: nn.Module,
    teacher: nn.Module,
    image_size: tuple[int, int],
    names: Names = ((), ()),
    *,
    projected: bool = True,
) -> FeaturePairs:
    """The maps from which both networks compute the classes, or those that are named."""
    if names[0]:
        return _pair_named(student, teacher, image_size, names, projected=projected)
    own, other = find_layers(student, image_size).fusion, find_layers(teacher, image_size).fusion
    return FeaturePairs([(own, other)], projected=projected)


def pair_stages(
    student: nn.Module,
    teacher: nn.Module,
    image_size: tuple[int, int],
    names: Names = ((), ()),
    *,
    projected: bool = True,
) -> FeaturePairs:
    """The stages of both backbones, matched by stride from the coarsest, or those named."""
    if names[0]:
        return _pair_named(student, teacher, image_size, names, projected=projected)
    stages = find_layers(student, image_size).stages, find_layers(teacher, image_size).stages
    return FeaturePairs(match_stages(*stages), projected=projected)


def _pair_named(
    student: nn.Module,
    teacher: nn.Module,
    image_size: tuple[int, int],
    names: Names,
    *,
    projected: bool,
) -> FeaturePairs:
    own = find_named(student, names[0], image_size)
    other = find_named(teacher, names[1], image_size)
    return FeaturePairs(list(zip(own, other, strict=True)), projected=projected)
