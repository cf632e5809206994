"""What a report says of the conditions of its run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from analysis.run_description import describe_latency

MEASURED = {"dtype": "float32", "num_threads": 2, "batch_size": 1, "resolution": [96, 192]}


@pytest.mark.parametrize(
    ("where", "begin"),
    [
        ({"engine": "openvino", "host": None, "device": "cpu"}, "openvino, cpu"),
        ({"engine": "onnxruntime", "host": "pi@shelf", "device": "cpu"},
         "onnxruntime, pi@shelf, cpu"),
        ({"device": "cuda:0"}, "cuda:0"),  # a run of before there were engines
        ({}, ""),
    ],
)  # fmt: skip
def test_the_engine_and_the_device_are_stated(where: dict[str, Any], begin: str) -> None:
    run: Any = SimpleNamespace(metadata={"latency": {**where, **MEASURED}})
    rest = "float32, 2 threads, batch 1, 96 × 192"
    assert describe_latency(run) == (f"{begin}, {rest}" if begin else rest)
