"""Third-party weights: whose they are, what they expect, and one door by which all of them load."""

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
