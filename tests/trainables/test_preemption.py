"""A worker that gets SIGTERM saves its training before it ends, as Ray ends workers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open

ROOT = Path(__file__).parents[2]
# As in a Ray worker: the main thread waits, the training runs in a daemon thread.
WORKER = """
import signal, sys, threading, time
from pathlib import Path
from trainables.context import StageContext
from trainables.data import AugmentationConfig, TrainingStream, create_dataset
from trainables.learning.training import TrainConfig, train
from models import create_model

def report(progress):
    print(progress.step, flush=True)

def work():
    dataset = create_dataset("synthetic", size=(64, 96), num_samples=6)
    stream = TrainingStream(dataset, AugmentationConfig(crop_size=(64, 64)), seed=3)
    model = create_model("dual_branch", backbone="tu-resnet18", width=0.125)
    context = StageContext(
        cache_dir=Path(sys.argv[1]),
        num_threads=1,
        checkpoint_seconds=3600,
        report=report,
        keep_state=lambda path: path.with_name("in-storage").touch(),
    )
    config = TrainConfig(num_steps=2_000, batch_size=2)
    path = Path(sys.argv[1]) / "state.safetensors"
    train(model, stream, config, name="dense", state_path=path, context=context)

signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
threading.Thread(target=work, daemon=True).start()
while True:
    time.sleep(0.05)
"""


def test_a_training_is_saved_at_the_step_that_it_has_reached(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WORKER, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        reached = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 1
    with safe_open(tmp_path / "state.safetensors", framework="pt") as file:
        assert json.loads(file.metadata()["progress"])["step"] >= reached > 0
    assert (tmp_path / "in-storage").exists()
