"""A study's numbers, exported by a real local Ray and read over HTTP.

Run as a script by test_ray_metrics.py, because Ray reads its report interval when it is imported.
Argument: folder of the run. Prints the address and the lines of /metrics as JSON.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from search.on_ray import metrics as ray_metrics
from search.on_ray.session import ray_session
from search.pipelines.study import PipelineStudy
from search.recipes import streets
from search.run_files.progress import ProgressBoard
from trainables.pipeline import StageResult

folder = Path(sys.argv[1])
for name, seconds in (("teacher-1", 100.0), ("sparse-1", 20.0)):
    (folder / "stages" / name).mkdir(parents=True)
    content = {"result": {"seconds": seconds}, "files": {}}
    (folder / "stages" / name / "result.json").write_text(json.dumps(content))
study = PipelineStudy(replace(streets(), num_pipelines=4), folder)
metrics = {"miou": 0.5, "latency_ms": 50.0, "num_params": 5e5}
stages = {"teacher": "teacher-1", "sparse": "sparse-1"}
for _ in range(3):
    study.ask()
for number in (0, 1):
    study.tell(number, "complete", result=StageResult(metrics=metrics, stages=stages))
board = ProgressBoard(study)
board.reference = {"miou": 0.0, "latency_ms": 100.0, "num_params": 1e6}
board.refresh()
searcher = SimpleNamespace(
    open_results=[StageResult(stages=stages)],
    baselines={"teacher": SimpleNamespace(stage="teacher-1")},
)
ray_metrics.SET_SECONDS = 0.2
with ray_session(None, dashboard=False):
    address = ray_metrics.metrics_address()
    exported = ray_metrics.StudyMetrics(board, searcher, folder, "cpu")
    deadline = time.monotonic() + 60
    lines: list[str] = []
    while not any("teacher_cache" in line for line in lines):  # set last
        assert time.monotonic() < deadline, f"nothing at {address}: {lines}"
        exported.tick()
        time.sleep(0.1)
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as page:
            text = page.read().decode()
        lines = [line for line in text.splitlines() if line.startswith("ray_segfront_")]
print(json.dumps({"address": address, "lines": lines}))
