"""Checks all splits of a data set together: counts, warnings, and errors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainables.data.cache import CachedDataset
from trainables.data.dataset import DataError

LARGE_IGNORED_SHARE = 0.5
_MAX_NAMED = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class DataReport:
    """Findings in all splits.

    Attributes:
        warnings: Warnings for the user, one sentence each.
        num_samples: Number of samples by split.
        class_counts: Number of pixels by split and class name.
        num_ignored: Number of ignored pixels by split, which count neither in a loss nor in a
            metric.
        sizes: Number of images by split and size ("height x width").
        resolution: Most frequent height and width of the validation images; of several, the first.
    """

    warnings: tuple[str, ...]
    num_samples: dict[str, int]
    class_counts: dict[str, dict[str, int]]
    num_ignored: dict[str, int]
    sizes: dict[str, dict[str, int]]
    resolution: tuple[int, int]


def check_splits(train: CachedDataset, val: CachedDataset) -> DataReport:
    """Raise an error for data on which mIoU is meaningless, and collect warnings.

    Args:
        train: Training split.
        val: Validation split.

    Raises:
        DataError: Fewer than two classes occur in a split; the message names it and the remedy.
    """
    splits = [train, val]
    problems = {split.split: _find_problem(split) for split in splits}
    found = [problem for problem in problems.values() if problem is not None]
    if found:
        worst = next(split for split in splits if problems[split.split] is not None)
        raise DataError(
            f"mIoU on {worst.source_name!r} would be meaningless: {'; '.join(found)}; at least two "
            f"classes must occur{_remedy(worst)}"
        )
    warnings = [
        *(text for split in splits for text in split.warnings),
        *_warn_of_classes(splits),
        *_warn_of_duplicates(splits),
        *warn_of_overlap(train, val),
        *_warn_of_sizes(splits),
    ]
    return DataReport(
        warnings=tuple(dict.fromkeys(warnings)),
        num_samples={split.split: len(split) for split in splits},
        class_counts={
            split.split: dict(zip(split.classes, split.label_counts, strict=True))
            for split in splits
        },
        num_ignored={split.split: split.num_ignored for split in splits},
        sizes={
            split.split: {f"{h} x {w}": n for (h, w), n in _count_sizes(split).items()}
            for split in splits
        },
        resolution=val.common_size,
    )


def _find_problem(split: CachedDataset) -> str | None:
    """Return why mIoU would be meaningless on a split; None if it is fine."""
    occurring = [name for name, n in zip(split.classes, split.label_counts, strict=True) if n > 0]
    if len(occurring) >= 2:
        return None
    found = f"only class {occurring[0]!r} occurs" if occurring else "no class occurs"
    ignored = _percent(split.num_ignored, sum(split.label_counts) + split.num_ignored)
    return f"in split {split.split!r} {found}, and {ignored} of its pixels are ignored (255)"


def _remedy(split: CachedDataset) -> str:
    if split.source_name != "folder":
        return "; give other masks or another split"
    if split.num_ignored == 0:
        return "; give masks or lists in which they do"
    if split.has_one_class:
        name = split.classes[-1]
        return (
            f". If {name!r} is one of two values in the masks, give it a colour in the file "
            f"of classes: the line '{name} 255 255 255' if 255 is {name!r}, or '{name} 0 0 0' if 0 "
            "is; the other value becomes the background"
        )
    lines = ", ".join(
        f"'{name} {grey} {grey} {grey}'"
        for name, grey in zip(split.classes, _greys(split.num_classes), strict=True)
    )
    return (
        ". If 255 is a class, give each class the colour of its value in the file "
        f"of classes, for example {lines}"
    )


def _greys(num_classes: int) -> list[int]:
    """0, 1, 2 and so on, and 255 for the last class."""
    return [*range(num_classes - 1), 255]


def _warn_of_classes(splits: Sequence[CachedDataset]) -> Iterator[str]:
    for split in splits:
        counts = dict(zip(split.classes, split.label_counts, strict=True))
        absent = [name for name, count in counts.items() if count == 0]
        total = sum(counts.values()) + split.num_ignored
        if absent:
            effect = "counts in mIoU, as 0, only if a network predicts it"
            if split.split == "train":
                effect = "cannot be learnt"
            yield (
                f"{_names(absent)} never {'occurs' if len(absent) == 1 else 'occur'} in split "
                f"{split.split!r} ({effect}); pixels there: {_spell_counts(counts, total)}"
            )
        share = split.num_ignored / total
        if share >= LARGE_IGNORED_SHARE or (
            absent and split.num_ignored and split.split == "train"
        ):
            yield (
                f"{_percent(split.num_ignored, total)} of the pixels of {split.split!r} are "
                "ignored (255); if 255 is a class, give each class its colour in the file "
                "of classes"
            )


def _warn_of_duplicates(splits: Sequence[CachedDataset]) -> Iterator[str]:
    for split in splits:
        repeated = len(split) - len(set(split.image_digests))
        if repeated:
            yield f"{repeated} of {len(split)} images of {split.split!r} are duplicates"


def warn_of_overlap(split: CachedDataset, other: CachedDataset) -> Iterator[str]:
    """Warn of images of one split that are also in another, and of names that both splits use.

    Args:
        split: Split that was trained on, or chosen by.
        other: Split on which accuracy is measured.
    """
    by_digest = dict(zip(split.image_digests, _names_of(split), strict=True))
    names = set(by_digest.values())
    pairs = [
        (by_digest[digest], name)
        for digest, name in zip(other.image_digests, _names_of(other), strict=True)
        if digest in by_digest
    ]
    if pairs:
        named = ", ".join(repr(a) if a == b else f"{a!r} as {b!r}" for a, b in pairs[:_MAX_NAMED])
        yield (
            f"{_number(len(pairs), 'image')} of {other.split!r} "
            f"{'is' if len(pairs) == 1 else 'are'} also in {split.split!r}: {named}"
            f"{_more(len(pairs))}, so accuracy there is too high"
        )
    same_picture = {name for _, name in pairs}
    same_name = sorted((names & set(_names_of(other))) - same_picture)
    if same_name:
        yield (
            f"{_number(len(same_name), 'name')} of {split.split!r} "
            f"{'names' if len(same_name) == 1 else 'name'} another image in "
            f"{other.split!r}: {_names(same_name)}"
        )


def _warn_of_sizes(splits: Sequence[CachedDataset]) -> Iterator[str]:
    sizes = sum((_count_sizes(split) for split in splits), Counter[tuple[int, int]]())
    if len(sizes) < 2:
        return
    areas = sorted(sizes, key=lambda size: size[0] * size[1])
    common = splits[1].common_size
    yield (
        f"images have {len(sizes)} sizes, from {_spell(areas[0])} to {_spell(areas[-1])} (height x "
        f"width): training uses crops, accuracy is measured at each image's own size, and latency "
        f"at {_spell(common)}; --pipeline.data.size {common[0]} {common[1]} scales all to one size"
    )


def _names_of(split: CachedDataset) -> list[str]:
    return [split.sample_name(index) for index in range(len(split))]


def _count_sizes(split: CachedDataset) -> Counter[tuple[int, int]]:
    return Counter(split.sample_size(index) for index in range(len(split)))


def _spell_counts(counts: dict[str, int], total: int) -> str:
    return ", ".join(f"{name} {count} ({_percent(count, total)})" for name, count in counts.items())


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.3g} %"


def _names(values: Sequence[str]) -> str:
    return ", ".join(map(repr, values[:_MAX_NAMED])) + _more(len(values))


def _more(count: int) -> str:
    return f" and {count - _MAX_NAMED} more" if count > _MAX_NAMED else ""


def _number(count: int, noun: str) -> str:
    return f"1 {noun}" if count == 1 else f"{count} {noun}s"


def _spell(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"
