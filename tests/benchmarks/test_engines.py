from __future__ import annotations

import importlib

import pandas as pd
import pytest


@pytest.fixture
def engines():
    return importlib.import_module("engines")


def test_pairs_are_inverted_by_more_than_a_tenth(engines):
    # By the first engine 0 < 1 < 2; the second turns 0 and 1 round clearly, 1 and 2 hardly.
    assert engines.count_inversions([10.0, 20.0, 30.0], [30.0, 20.0, 19.0]) == (2, 3)
    assert engines.count_inversions([10.0, 20.0, 30.0], [10.0, 20.0, 30.0]) == (0, 3)
    assert engines.count_inversions([10.0, 10.5], [20.0, 10.0]) == (0, 1)


def test_the_tables_say_what_was_found(engines):
    rows = [
        ("a", 0.0, 1, 400, 20.0, 10.0),
        ("a", 0.5, 1, 100, 10.0, 8.0),
        ("a", 0.5, 8, 120, 9.0, 4.0),
        ("b", 0.0, 1, 300, 15.0, 30.0),
    ]
    columns = ["network", "ratio", "round_to", "macs", "pytorch", "onnxruntime"]
    arguments = engines.Arguments(engines=("pytorch", "onnxruntime"))
    text = engines.describe(pd.DataFrame(rows, columns=columns), arguments)
    assert "| a | 0.5 | 10.0 | 8.0 |" in text  # latency
    assert "| pytorch, onnxruntime | 0.33 | 1 of 3 |" in text  # order
    assert "| a | 0.5 | 4.00 | 2.00 | 1.25 |" in text  # speed-up by MACs, and realised
    assert "| a | 0.5 | 8 | 1.20 | 0.90 | 0.50 |" in text  # widths in multiples of 8
