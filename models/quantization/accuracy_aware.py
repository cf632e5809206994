"""Quantisation that keeps in float what costs too much accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from models.quantization.quantizer import Quantizer


class Quantized(NamedTuple):
    """Quantised files.

    Attributes:
        files: Their names, first that which the engine loads.
        accuracy: Of the files in their engine.
        kept_float: Names of the layers that stay in float, most harmful first.
    """

    files: list[str]
    accuracy: float
    kept_float: list[str]


def quantize_accurately(
    quantize: Quantizer,
    file: Path,
    folder: Path,
    images: Sequence[NDArray[Any]],
    *,
    ranking: Sequence[str],
    nodes: dict[str, list[str]],
    evaluate: Callable[[Path], float],
    float_accuracy: float,
    max_drop: float,
) -> Quantized:
    """Quantise everything, or else keep as few of the most harmful layers in float as it takes.

    The number of layers kept is doubled until the accuracy is good enough and then halved in
    between, which takes it for granted that keeping more layers does not cost accuracy.

    Args:
        quantize: By the engine's library.
        file: The float file.
        folder: Takes the quantised ones.
        images: For the ranges of activations.
        ranking: Names of the layers, most harmful first.
        nodes: From `models.quantization.sensitivity.find_nodes`.
        evaluate: Path of a file -> accuracy in its engine.
        float_accuracy: Of the float file in that engine.
        max_drop: Largest loss of accuracy, in the same unit, at least 0.

    Returns:
        The files with the fewest layers in float that lose no more than that; all layers are in
        float where nothing else does.
    """

    def attempt(count: int) -> Quantized:
        kept = list(ranking[:count])
        names = [node for layer in kept for node in nodes[layer]]
        files = quantize(file, folder, images, names)
        return Quantized(files, evaluate(folder / files[0]), kept)

    def is_good(found: Quantized) -> bool:
        return float_accuracy - found.accuracy <= max_drop

    found = attempt(0)
    if is_good(found) or not ranking:
        return found
    too_few, count = 0, 1
    while True:
        count = min(count, len(ranking))
        found = attempt(count)
        if is_good(found) or count == len(ranking):
            break
        too_few, count = count, 2 * count
    enough, last = count, count
    while enough - too_few > 1:
        last = (too_few + enough) // 2
        tried = attempt(last)
        if is_good(tried):
            enough, found = last, tried
        else:
            too_few = last
    return found if last == enough else attempt(enough)  # the files are those of the last attempt
