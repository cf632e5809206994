from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def network_speed():
    return importlib.import_module("network_speed")


def test_every_form_is_compared_with_the_plain_one(network_speed):
    arguments = network_speed.Arguments(
        networks=("espnet",), crop_size=(64, 64), resolution=(64, 64), rounds=1, device="cpu"
    )
    document = network_speed.measure(arguments, network_speed.Console(quiet=True))
    (row,) = [line for line in document.splitlines() if line.startswith("| `espnet`")]
    training, ours, _, inference, channels_last, folded, compiled = [
        cell.strip() for cell in row.strip("|").split("|")
    ][1:]
    assert all(float(cell) > 0 for cell in (training, ours, inference, channels_last, folded))
    assert compiled == ""


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"networks": ("unet",)}, r"networks must be among .*; got unet"),
        (
            {"networks": ("espnet",), "compiled": ("enet",)},
            "compiled must be among espnet; got enet",
        ),
        ({"batch_size": 1}, "batch_size must be at least 2, got 1"),
    ],
)
def test_bad_values_are_named(network_speed, values, message):
    with pytest.raises(ValueError, match=message):
        network_speed.Arguments(**values)
