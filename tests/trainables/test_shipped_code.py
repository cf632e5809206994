"""A user's network on a machine that lacks its code, or has another version of it."""

from __future__ import annotations

import pickle
import shutil
import sys
from pathlib import Path

import pytest
import torch

from models import create_model
from search.on_ray.node_check import NodeReport, check_nodes, inspect_node
from trainables.network_config import NetworkConfig
from trainables.pipeline import pack_networks
from trainables.pipeline_config import PipelineConfig
from trainables.process.machine_errors import SurroundingsError
from trainables.process.shipped_code import ShippedCode, check_user_code, pack_code, unpack_code

NET = """
from torch import nn
from {beside} import WIDTH

def make(num_classes):
    return nn.Sequential(nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU(),
                         nn.Conv2d(WIDTH, num_classes, 1))
"""
SETTINGS = """
import json
from pathlib import Path

WIDTH = json.loads((Path(__file__).parent / "width.json").read_text())
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the driver has its networks; `leave` then makes this process another machine."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr("models.resolving._places", {})
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    home = tmp_path / "home"
    package = home / "pack" / "nets"
    package.mkdir(parents=True)
    (home / "net16_beside.py").write_text("WIDTH = 5\n")
    (home / "net16_file.py").write_text(NET.format(beside="net16_beside"))
    (home / "pack" / "__init__.py").write_text("")
    (package / "__init__.py").write_text("")
    (package / "sizes.py").write_text(SETTINGS)
    (package / "width.json").write_text("7")
    (package / "big.bin").write_bytes(b"0" * 100)
    (package / "net.py").write_text(NET.format(beside=".sizes"))
    sys.path.append(str(home))
    return home


def leave(home: Path) -> None:
    """Go to a machine without these files."""
    shutil.rmtree(home)
    sys.path[:] = [entry for entry in sys.path if not entry.startswith(str(home))]
    for name in [n for n, m in sys.modules.items() if str(home) in str(getattr(m, "__file__", ""))]:
        del sys.modules[name]
    for name in [n for n in sys.modules if n.partition(".")[0] == "pack"]:
        del sys.modules[name]


def count_channels(name: str) -> int:
    return int(next(create_model(name, num_classes=3).parameters()).shape[0])


def test_files_and_packages_reach_a_machine_that_lacks_them(home: Path, tmp_path: Path) -> None:
    named = f"{home}/net16_file.py:make"
    config = PipelineConfig(
        student=NetworkConfig(name=named), teacher=NetworkConfig(name="pack.nets.net:make")
    )
    code = pickle.loads(pickle.dumps(pack_networks(config)))
    assert set(code.hashes) == {named, "pack.nets.net:make"}
    assert not any(name.endswith("big.bin") for name in code.files)
    leave(home)
    with pytest.raises(ValueError, match="there is no file"):
        create_model(named, num_classes=3)
    check_user_code(code, tmp_path / "cache")
    check_user_code(code, tmp_path / "cache")
    assert (count_channels(named), count_channels("pack.nets.net:make")) == (5, 7)
    assert create_model(named, num_classes=3).name == named
    assert create_model(named, num_classes=3)(torch.zeros(1, 3, 64, 64)).shape[1] == 3
    assert [p.name for p in (tmp_path / "cache" / "code").iterdir()] == [code.key]


def test_the_drivers_code_goes_before_another_version(home: Path, tmp_path: Path) -> None:
    named = f"{home}/net16_file.py:make"
    code = pack_code([named, "pack.nets.net:make", "espnet", "smp:Unet"])
    text = (home / "net16_file.py").read_text()
    leave(home)
    (home / "pack" / "nets").mkdir(parents=True)
    (home / "net16_beside.py").write_text("WIDTH = 6\n")
    (home / "net16_file.py").write_text(text)
    (home / "pack" / "__init__.py").write_text("")
    (home / "pack" / "nets" / "net.py").write_text("make = None\n")
    sys.path.append(str(home))
    check_user_code(code, tmp_path / "cache")
    assert (count_channels(named), count_channels("pack.nets.net:make")) == (5, 7)


def test_the_same_code_is_used_where_it_lies(home: Path, tmp_path: Path) -> None:
    code = pack_code([f"{home}/net16_file.py:make"])
    check_user_code(code, tmp_path / "cache")
    unpack_code(ShippedCode(), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_what_is_missing_on_a_node_is_named(home: Path, tmp_path: Path) -> None:
    named = f"{home}/net16_file.py:make"
    library = tmp_path / "library"
    library.mkdir()
    (library / "net16_library.py").write_text("WIDTH = 4\n")
    sys.path.append(str(library))
    (home / "net16_file.py").write_text(NET.format(beside="net16_library"))
    code = pack_code([named])
    leave(home)
    leave(library)
    probe = tmp_path / "probe"
    probe.touch()
    report = inspect_node(None, probe, None, code, tmp_path / "cache")
    with pytest.raises(ValueError, match="net16_library") as caught:
        check_nodes(NodeReport(), {"10.0.0.7": report}, {}, data_root=None, run_dir=tmp_path)
    assert f"node 10.0.0.7: cannot import the network {named}" in str(caught.value)
    assert "install there what else it imports" in str(caught.value)
    with pytest.raises(SurroundingsError, match=r"^node .*: cannot import .*net16_library"):
        check_user_code(code, tmp_path / "cache")


def test_code_that_was_changed_on_a_node_is_named(home: Path, tmp_path: Path) -> None:
    code = pack_code([f"{home}/net16_file.py:make"])
    leave(home)
    kept = tmp_path / "cache" / "code" / code.key
    code.write(kept)
    (next(kept.glob("file-*")) / "net16_beside.py").write_text("WIDTH = 9\n")
    with pytest.raises(SurroundingsError, match=r"the code of .*net16_file\.py:make .* is not"):
        check_user_code(code, tmp_path / "cache")


def test_a_node_that_cannot_keep_the_code_says_so(home: Path, tmp_path: Path) -> None:
    code = pack_code([f"{home}/net16_file.py:make"])
    leave(home)
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(SurroundingsError, match="cannot keep the code of your network in"):
        check_user_code(code, tmp_path / "cache")
