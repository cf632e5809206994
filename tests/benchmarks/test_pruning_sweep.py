from __future__ import annotations

import importlib

import pytest


@pytest.fixture
def pruning_sweep():
    return importlib.import_module("pruning_sweep")


def test_every_form_is_tried(pruning_sweep):
    arguments = pruning_sweep.Arguments(networks=("fast_scnn",), ratios=(0.5,), exported=())
    document = pruning_sweep.sweep(arguments, pruning_sweep.Console(quiet=True))
    (row,) = [line for line in document.splitlines() if line.startswith("| `fast_scnn`")]
    *kept, error, exported = [cell.strip() for cell in row.strip("|").split("|")][1:]
    assert all(15 < float(cell.strip("%")) < 40 for cell in kept)
    assert len(kept) == 4
    assert float(error) < 1e-4
    assert exported == ""


def test_a_network_that_differs_is_named(pruning_sweep, monkeypatch):
    monkeypatch.setattr(pruning_sweep, "mask_channels", lambda model, layers: None)
    form = pruning_sweep.Form(0.5, "local", None)
    with pytest.raises(ArithmeticError, match=r"fast_scnn, Form\(.*differs from the masked"):
        pruning_sweep.try_form(pruning_sweep.make_network("fast_scnn"), form, exports=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"networks": ("unet",)}, r"networks must be among .*; got \['unet'\]"),
        ({"exported": (0.4,)}, r"exported must be among \(0.2, 0.5, 0.7\); got \[0.4\]"),
    ],
)
def test_bad_values_are_named(pruning_sweep, values, message):
    with pytest.raises(ValueError, match=message):
        pruning_sweep.Arguments(**values)
