"""Quantisation that keeps layers in float if quantising them costs too much accuracy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from models.quantization.quantizer import Quantizer

BETWEEN = "operations between convolutions"


class Quantized(NamedTuple):
    """Quantised files and their accuracy.

    Attributes:
        files: Names of the files, the one that the engine loads first.
        accuracy: Accuracy of the files in their engine.
        kept_float: Names of the layers that stay in float, most harmful first; `BETWEEN` stands for
            all operations between the convolutions.
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
    """Quantise everything, or keep as few of the most harmful layers in float as necessary.

    If everything in int8 costs too much, first the operations between the convolutions stay in
    float: sums and concatenations of maps of different ranges can harm more than any convolution.
    Then the number of convolutions in float is doubled until the accuracy is good enough, and found
    by bisection. This assumes that keeping more layers in float does not reduce the accuracy.

    Args:
        quantize: Quantiser of the engine.
        file: The float file.
        folder: Folder for the quantised files.
        images: Calibration images, for the ranges of activations.
        ranking: Names of the convolutions, most harmful first.
        nodes: Nodes of each convolution, from `models.quantization.sensitivity.find_nodes`.
        evaluate: Function that maps the path of a file to its accuracy in the engine.
        float_accuracy: Accuracy of the float file in that engine.
        max_drop: Largest loss of accuracy, in the same unit, at least 0.

    Returns:
        The files with the fewest layers in float whose loss is at most `max_drop`; with all of them
        in float it is a float file.
    """

    def attempt(count: int, *, only_convolutions: bool = True) -> Quantized:
        kept = list(ranking[:count])
        names = [node for layer in kept for node in nodes[layer]]
        files = quantize(file, folder, images, names, only_convolutions=only_convolutions)
        between = [BETWEEN] if only_convolutions else []
        return Quantized(files, evaluate(folder / files[0]), [*between, *kept])

    def is_good(found: Quantized) -> bool:
        return float_accuracy - found.accuracy <= max_drop

    found = attempt(0, only_convolutions=False)
    if is_good(found):
        return found
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
    return found if last == enough else attempt(enough)  # the last attempt overwrote the files
