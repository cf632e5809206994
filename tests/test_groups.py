"""Tests that start Ray share one process: two sessions of Ray would fight for the cores."""

from __future__ import annotations

import os

import pytest


@pytest.mark.ray
@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="runs in one process")
def test_tests_that_start_ray_share_a_process(request: pytest.FixtureRequest) -> None:
    assert request.node.nodeid.endswith("@ray"), (
        "pytest-xdist does not see the group that tests/conftest.py gives to tests that start Ray; "
        "its version and pytest's do not fit each other"
    )
