"""Loading a checkpoint imports no code that only the file names."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.checkpoint import CheckpointError, load_checkpoint, read_metadata, read_structure
from models.resolving import UntrustedNetworkError
from trainables.network_config import NetworkConfig


@pytest.fixture
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint that names code which leaves a trace when it is imported."""
    package = tmp_path / "evil_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    mark = tmp_path / "was_run"
    code = f"open({str(mark)!r}, 'w').close()\nfrom torch.nn import Conv2d as Net\n"
    (package / "nets.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("models.resolving._allowed", set())
    path = tmp_path / "evil.safetensors"
    structure = {"name": "evil_package.nets:Net", "kwargs": {"num_classes": 2}, "widths": {}}
    header = {"format": "segfront", "version": "1", "structure": json.dumps(structure),
              "metadata": "{}"}  # fmt: skip
    save_file({"weight": torch.zeros(1)}, path, metadata=header)
    return path


def test_code_that_only_a_file_names_is_not_imported(
    evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = evil.parent / "was_run"
    for trusted in ("", "evil", "evil_packages", "evil_package.net", "other,, another"):
        monkeypatch.setenv("SEGFRONT_MODULES", trusted)
        with pytest.raises(UntrustedNetworkError, match="SEGFRONT_MODULES=evil_package"):
            load_checkpoint(evil)
    with pytest.raises(UntrustedNetworkError):
        load_checkpoint(evil, factory="evil_package.nets:Other")
    read_structure(evil), read_metadata(evil)
    for name in ("dual_branch", "smp:Unet", "my_package.nets:Net2"):
        with pytest.raises(ValueError, match=r"a checkpoint of evil_package\.nets:Net; set the"):
            NetworkConfig(name=name, weights=str(evil)).build(2)
    assert not mark.exists()
    assert "evil_package" not in sys.modules


@pytest.mark.parametrize("way", ["factory", "package", "module", "allowed"])
def test_code_that_the_caller_names_is_imported(
    way: str, evil: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "evil_package.nets:Net"
    if way in ("package", "module"):
        trusted = "evil_package" if way == "package" else "other, evil_package.nets"
        monkeypatch.setenv("SEGFRONT_MODULES", trusted)
    if way == "allowed":
        NetworkConfig(name=name).allow()
    with pytest.raises(CheckpointError, match="must take the number of classes"):
        load_checkpoint(evil, factory=name if way == "factory" else None)
    assert (evil.parent / "was_run").exists()
    for module in [m for m in sys.modules if m.startswith("evil_package")]:
        del sys.modules[module]
