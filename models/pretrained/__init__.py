"""Third-party weights: their sources, the input that they expect, and how to load them."""

from __future__ import annotations

from models.normalization import Normalization
from models.pretrained.loading import NAMINGS, load_pretrained
from models.pretrained.sources import SOURCES, PretrainedSource, merge_classes

__all__ = [
    "NAMINGS",
    "SOURCES",
    "Normalization",
    "PretrainedSource",
    "load_pretrained",
    "merge_classes",
]
