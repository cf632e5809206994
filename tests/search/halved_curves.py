"""Tune trials of two objectives that `search.on_ray.scheduler` halves; what became of them as JSON.

Arguments: folder, most trials at a time (0: as many as there are cores).
"""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search.optuna import OptunaSearch

from search.on_ray.scheduler import FrontHalvingScheduler

NUM_TRIALS, LENGTH, RUNGS = 12, 9, (1, 3)


class Curve(tune.Trainable):
    """Accuracy that grows towards what its width and its skill allow; the width is the cost."""

    def setup(self, config: dict[str, Any]) -> None:
        self.count = 0

    def step(self) -> dict[str, Any]:
        self.count += 1
        with (FOLDER / self.trial_id).open("a") as file:
            file.write(f"{self.count}\n")
        width, skill = self.config["width"], self.config["skill"]
        accuracy = skill * math.sqrt(width) * (1 - math.exp(-self.count / 3))
        return {"accuracy": accuracy, "width": width, "done": self.count == LENGTH}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        (Path(checkpoint_dir) / "count").write_text(str(self.count))

    def load_checkpoint(self, checkpoint_dir: str) -> None:
        self.count = int((Path(checkpoint_dir) / "count").read_text())


def main(max_concurrent: int) -> None:
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    space = {"width": tune.uniform(0.1, 1.0), "skill": tune.uniform(0.2, 1.0)}
    metrics, modes = ["accuracy", "width"], ["max", "min"]
    search = OptunaSearch(space, metric=metrics, mode=modes, seed=0)
    scheduler = FrontHalvingScheduler(
        {"accuracy": "maximize", "width": "minimize"}, rungs=RUNGS, reduction_factor=3
    )
    results = tune.Tuner(
        Curve,
        tune_config=tune.TuneConfig(
            search_alg=search,
            scheduler=scheduler,
            num_samples=NUM_TRIALS,
            max_concurrent_trials=max_concurrent or None,
        ),
        run_config=tune.RunConfig(storage_path=str(FOLDER / "tune"), verbose=0),
    ).fit()
    trials = [
        {
            "length": result.metrics["training_iteration"],
            "steps": [int(n) for n in (FOLDER / result.metrics["trial_id"]).read_text().split()],
            **{name: result.metrics[name] for name in metrics},
        }
        for result in results
    ]
    states = [trial.state.name for trial in search._ot_study.trials]
    print(json.dumps({"trials": trials, "states": states, "num_errors": results.num_errors}))


FOLDER = Path(sys.argv[1]) if __name__ == "__main__" else Path()

if __name__ == "__main__":
    main(int(sys.argv[2]))
