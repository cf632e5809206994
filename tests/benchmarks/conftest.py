from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _benchmarks_importable(monkeypatch):
    """Scripts, not a package: `python benchmarks/x.py` puts their folder on the path itself."""
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
