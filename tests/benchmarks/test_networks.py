from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def networks():
    return importlib.import_module("networks")


def test_the_table_states_ours_beside_the_published(networks):
    arguments = networks.Arguments(networks=("espnet",), latency_seconds=0.0)
    document = networks.measure(arguments, networks.Console(quiet=True))
    (row,) = [line for line in document.splitlines() if line.startswith("| `espnet`")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:4] == ["0.363", "0.36", "+1.0 %"]
    assert float(cells[5]) > float(cells[4]) > 0
    assert "Latency was not measured." in document


def test_an_unknown_network_is_named(networks):
    with pytest.raises(ValueError, match=r"networks must be among .*; got unet"):
        networks.Arguments(networks=("unet",))
