import importlib
import json

import pytest


@pytest.fixture
def trial_overhead():
    return importlib.import_module("trial_overhead")


def test_trials_are_timed_from_end_to_end_without_the_first_ones(
    trial_overhead, tmp_path, monkeypatch
) -> None:
    for number in range(7):
        path = tmp_path / "tune" / f"trial-{number}" / "result.json"
        path.parent.mkdir(parents=True)
        ended = 1000 + (number if number < 4 else 3 + (number - 3) / 2)
        lines = [{"time_total_s": seconds, "timestamp": ended} for seconds in (0.0, 0.1 * number)]
        path.write_text("\n".join(map(json.dumps, lines)))
    stage = tmp_path / "stages" / "dense-1" / "result.json"
    stage.parent.mkdir(parents=True)
    stage.write_text("{}")
    timing = trial_overhead.read_timing("ours", tmp_path)
    assert timing == ("ours", 3, pytest.approx(500), pytest.approx(500))


def test_too_few_pipelines_are_refused(trial_overhead, capsys) -> None:
    with pytest.raises(SystemExit):
        trial_overhead.main(["--num-pipelines", "4"])
    assert "num_pipelines must be above 4, got 4" in capsys.readouterr().err
