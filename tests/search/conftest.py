from __future__ import annotations

from dataclasses import replace

import pytest

from search.config import StudyConfig
from search.recipes import quickstart


@pytest.fixture
def config() -> StudyConfig:
    return replace(quickstart(), num_pipelines=8, first_points=())
