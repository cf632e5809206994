"""Files from elsewhere run no code and lead nowhere else; secrets stay out of what is written.

Beside these: test_imports.py keeps pickle out of every file, tests/models/test_checkpoint.py
refuses one as a checkpoint, tests/models/test_untrusted_networks.py code that one names,
tests/analysis/test_report.py holds the report's escaping,
tests/trainables/data/test_download.py an archive's paths, tests/search/test_ray_session.py the
addresses of a local session and its token, tests/cluster/test_cluster_files.py those of a cluster.
"""

from __future__ import annotations

import ast
import csv
import json
import pickle
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from analysis.report import main as write_report
from models import create_model
from models.pretrained import load_pretrained
from search.config import StudyConfig, save_config
from search.on_ray.node_check import inspect_node
from search.pipelines.records import TrialRecord
from search.pipelines.study import PipelineStudy
from search.recipes import streets
from search.run_files.results import now, write_metadata, write_trials
from trainables.artifacts.store import ArtifactStore
from trainables.chain import make_settings
from trainables.data import DataError, create_dataset
from trainables.learning.training_state import TrainingStateError, load_training_state
from trainables.network_config import NetworkConfig
from trainables.pipeline import DatasetSummary, StageResult

ROOT = Path(__file__).parents[1]
PACKAGES = ("analysis", "models", "search", "trainables")
OUTSIDE = ("../../etc", "/etc", "..", ".", "a/b")


# --- no code from files


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("a pickle was loaded",)


@pytest.fixture(params=["pickle", "torch.save"])
def bomb(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A file of weights that runs code when it is unpickled."""
    path = tmp_path / "weights.safetensors"
    if request.param == "pickle":
        path.write_bytes(pickle.dumps({"weight": Bomb()}))
    else:
        torch.save({"weight": Bomb()}, path)
    return path


def test_pickle_is_refused_as_weights_of_a_network(bomb: Path) -> None:
    with pytest.raises(ValueError, match="is not a safetensors file"):
        load_pretrained(create_model("enet", 2), bomb, naming="segfront")


def test_pickle_is_refused_as_weights_of_a_backbone(bomb: Path) -> None:
    network = NetworkConfig(
        name="dual_branch", backbone="tu-resnet18", backbone_weights=str(bomb), width=1.0
    )
    with pytest.raises(ValueError, match="is not a safetensors file"):
        network.build(2)


def test_pickle_is_refused_as_an_unfinished_training(bomb: Path) -> None:
    model = torch.nn.Linear(1, 1)
    with pytest.raises(TrainingStateError, match=r"cannot resume from .*weights\.safetensors"):
        load_training_state(bomb, model, torch.optim.SGD(model.parameters()))


def unsafe_downloads(tree: ast.Module) -> Iterator[str]:
    """Calls that fetch weights in the format of torch.save and do not say weights_only=True."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name.split(".")[-1] in ("load_state_dict_from_url", "load_url", "get_state_dict"):
            said = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if said.get("weights_only") != "True" or said.get("check_hash") != "True":
                yield f"line {node.lineno}: {name}"


def test_downloaded_weights_are_tensors_alone_and_their_hash_is_checked() -> None:
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            assert not list(unsafe_downloads(ast.parse(path.read_text()))), path
    bad = "torch.hub.load_state_dict_from_url(url, check_hash=True)"
    assert list(unsafe_downloads(ast.parse(bad))) == ["line 1: torch.hub.load_state_dict_from_url"]


# --- no path out of the run's folder


def write_run(folder: Path, stage: str) -> Path:
    config = streets()
    dataset = DatasetSummary("synthetic", 2, ("road", "sky"), (64, 64))
    write_metadata(folder / "metadata.json", config, dataset, [], device="cpu", created_at=now())
    record = TrialRecord(
        number=0,
        state="complete",
        settings=make_settings(),
        metrics={"miou": 0.5, "latency_ms": 5.0, "num_params": 100.0},
        stages={"distilled": stage},
    )
    write_trials(folder / "trials.csv", [record], config.objectives)
    return folder


@pytest.mark.parametrize("stage", [*OUTSIDE, "..\\etc"])
def test_stage_in_trials_csv_cannot_lead_out_of_the_run(
    stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert write_report([str(write_run(tmp_path, stage))]) == 1
    message = capsys.readouterr().err
    assert f"column 'stage/distilled' is {stage!r}, not the name of a folder in stages/" in message
    assert "line 2" in message
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("stage", OUTSIDE)
def test_stage_in_the_journal_cannot_lead_out_of_the_run(stage: str, tmp_path: Path) -> None:
    config = StudyConfig()
    study = PipelineStudy(config, tmp_path)
    proposal = study.ask()
    assert proposal is not None
    metrics = {"miou": 0.5, "latency_ms": 5.0, "num_params": 100.0}
    study.tell(
        proposal.number,
        "complete",
        result=StageResult(metrics=metrics, stages={"distilled": stage}),
    )
    # Whoever opened it could delete that folder with --keep front.
    with pytest.raises(ValueError, match="'distilled' of trial 0 is"):
        PipelineStudy(config, tmp_path)


@pytest.mark.parametrize("name", OUTSIDE)
def test_file_in_an_artefact_cannot_lead_out_of_it(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = ArtifactStore(tmp_path)
    artifact = store.obtain("dense", "1", lambda folder: {"miou": 0.5})
    record = artifact.folder / "result.json"
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, "files": {name: "0" * 64}}))
    assert store.find("dense", "1") is None
    assert f"{name!r} is not a file of this folder" in caplog.text


def test_list_of_samples_cannot_lead_out_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    (tmp_path / "data" / "masks").mkdir()
    pixels = np.zeros((8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "secret.png")
    Image.fromarray(pixels).save(tmp_path / "data" / "images" / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "data" / "masks" / "a.png")
    (tmp_path / "data" / "classes.txt").write_text("road\n")
    for stem in ("../../secret", str(tmp_path / "secret")):
        (tmp_path / "data" / "train.txt").write_text(f"{stem}\n")
        with pytest.raises(DataError, match="has no such image"):
            create_dataset("folder", tmp_path / "data", "train")


# --- no secrets

SECRET = "kept-to-itself-4f1c"
SECRET_VARIABLES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "RAY_AUTH_TOKEN",
    "HF_TOKEN",
    "DATABASE_PASSWORD",
)


def test_secrets_of_the_environment_are_written_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in SECRET_VARIABLES:
        monkeypatch.setenv(name, SECRET)
    caplog.set_level("DEBUG")
    save_config(streets(), tmp_path / "config.json")
    assert write_report([str(write_run(tmp_path, "distilled-1"))]) == 0
    probe = tmp_path / "probe"
    probe.write_text(repr(asdict(inspect_node(None, probe))))
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"config.json", "metadata.json", "trials.csv", "index.html", "probe"} <= {
        path.name for path in written
    }
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert SECRET not in caplog.text
    with (tmp_path / "trials.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 1
