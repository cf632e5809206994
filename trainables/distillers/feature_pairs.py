"""Pairs of maps of student and teacher, at a common size and width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torch import Tensor, nn

from trainables.distillers.distiller import Lesson
from trainables.distillers.layers import Layer, find_layers, find_named, match_stages
from trainables.distillers.maps import Projections, cut_padding, shrink_to_common, valid_cells

# Names of layers in the student and in the teacher; both empty: find them automatically.
Names = tuple[tuple[str, ...], tuple[str, ...]]


class MapPair(NamedTuple):
    """Two maps that are compared.

    Attributes:
        student: Map of the student, (N, c, h, w), at least float32; if projected, c = C.
        teacher: Map of the teacher, (N, C, h, w), at least float32, without gradient.
        valid: Cells that contain a labelled pixel, (N, h, w) bool.
    """

    student: Tensor
    teacher: Tensor
    valid: Tensor


class FeaturePairs(nn.Module):
    """The maps that are compared, and the projections of the student's maps to the teacher's width.

    Args:
        pairs: Pairs of a layer of the student and a layer of the teacher.
        projected: Whether the student's maps are projected to the teacher's width.
    """

    def __init__(self, pairs: Sequence[tuple[Layer, Layer]], *, projected: bool = True) -> None:
        super().__init__()
        self.student_layers = tuple(own for own, _ in pairs)
        self.teacher_layers = tuple(other for _, other in pairs)
        self.projections = Projections(pairs if projected else ())

    def read(self, lesson: Lesson) -> Iterator[MapPair]:
        """Yield the maps of a batch, averaged down to a common size, see `shrink_to_common`."""
        layers = zip(self.student_layers, self.teacher_layers, strict=True)
        for index, (own, other) in enumerate(layers):
            size = lesson.target.shape[-2:]
            student, teacher = shrink_to_common(
                cut_padding(lesson.student_features[own.key], own.stride, size),
                cut_padding(lesson.teacher_features[other.key].detach(), other.stride, size),
                size,
            )
            valid = valid_cells(lesson.target, student.shape[-2:])
            # Averaging before projecting gives the same result and is cheaper.
            yield MapPair(self.projections.project(index, student), teacher, valid)


def pair_fusion(
    student: nn.Module,
    teacher: nn.Module,
    image_size: tuple[int, int],
    names: Names = ((), ()),
    *,
    projected: bool = True,
) -> FeaturePairs:
    """Pair the maps from which both networks compute the classes, or the named layers."""
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
    """Pair the stages of both backbones by stride from the coarsest, or the named layers."""
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
