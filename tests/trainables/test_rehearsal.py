"""A few steps of every kind of stage, timed in small."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from search.recipes import streets
from trainables.chain import make_chain
from trainables.context import StageContext
from trainables.data.optical_flow import find_motion
from trainables.pipeline import build_baselines
from trainables.pipeline_config import PipelineConfig
from trainables.rehearsal import (
    NUM_IMAGES,
    NUM_STEPS,
    StageRate,
    Stopwatch,
    find_width,
    name_kind,
    rehearse,
    shrink,
)
from trainables.stages import STAGES
from trainables.stages.stage import Work


@pytest.fixture
def config() -> PipelineConfig:
    pipeline = streets().pipeline
    augmentation = replace(pipeline.data.augmentation, crop_size=(64, 64))
    return replace(
        pipeline,
        data=replace(pipeline.data, size=(64, 64), num_samples=80, augmentation=augmentation),
        teacher=replace(pipeline.teacher, width=0.125),
        student=replace(pipeline.student, width=0.125),
        latency=replace(pipeline.latency, max_seconds=0.1),
    )


def test_every_stage_says_what_it_has_to_do(config: PipelineConfig) -> None:
    chain = make_chain()
    work = {s.stage: STAGES[s.stage].count_work(s.settings, config) for s in chain}
    assert work == {
        "dense": Work(num_steps=210, num_images=20), "sparse": Work(60, 20),
        "pruned": Work(num_images=20), "latency": Work(longest_seconds=0.1),
        "distilled": Work(90, 20),
    }  # fmt: skip
    (teacher,) = build_baselines(config)["teacher"][:1]
    assert STAGES["teacher"].count_work(teacher.settings, config) == Work(210, 20)
    given = replace(config, student=replace(config.student, weights="net.pth"))
    dense = chain[0].settings
    assert STAGES["dense"].count_work(dense, given) == Work(num_images=20)


def test_qat_counts_its_own_steps(config: PipelineConfig) -> None:
    chain = make_chain(("dense", "quantised"), method="qat")
    settings = chain[-1].settings
    stage = STAGES["quantised"]
    assert stage.count_work(settings, config) == Work(num_steps=200, num_images=20)
    assert stage.count_work(settings, stage.set_length(config, 7)).num_steps == 7
    plain = make_chain(("dense", "quantised"))[-1].settings
    assert stage.count_work(plain, config).num_steps == 0


def test_a_stage_is_as_long_as_it_was_set(config: PipelineConfig) -> None:
    for name in ("teacher", "dense", "sparse", "distilled"):
        stage = STAGES[name]
        short = stage.set_length(config, 3)
        assert stage.count_work(stage.Settings(), short).num_steps == 3
        assert short != config
    assert STAGES["pruned"].set_length(config, 3) == config


def test_kinds_and_widths_of_stages() -> None:
    chain = make_chain(pruning_ratio=0.3, distiller="kd")
    names = [name_kind(chain[:n]) for n in range(1, len(chain) + 1)]
    assert names == ["dense student", "dense student sparse", "dense student pruned",
                     "dense student latency", "dense student distilled kd"]  # fmt: skip
    assert [find_width(chain[:n]) for n in (1, 3, 5)] == [1.0, 0.7, 0.7]


def test_a_rate_times_the_work() -> None:
    rate = StageRate(2.0, 0.5, 3.0, 0.25)
    assert rate.predict(Work(10, 4, 8.0)) == 20 + 2 + 3 + 2


def test_a_rehearsal_times_the_studys_own_stages_in_small(
    config: PipelineConfig, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    config.data.open_all_cached(("train", "val"), cache)
    before = sorted(cache.rglob("*"))
    context = StageContext(cache_dir=cache, num_threads=1)
    rates: dict[str, StageRate] = {}
    stages = ("dense", "pruned", "latency", "distilled")
    chain = make_chain(stages, pruning_ratio=0.5, distiller="none")
    rehearse(config, chain, context, tmp_path / "scratch", rates=rates)
    assert set(rates) == {name_kind(chain[:n]) for n in range(1, len(chain) + 1)}
    trained = rates[name_kind(chain)]
    assert trained.seconds_per_step > 0
    assert trained.seconds_per_image > 0
    assert trained.width == 0.5
    assert rates["dense student pruned"].seconds_per_step == 0
    assert rates["dense student latency"].longest_share > 0
    known = dict(rates)
    rehearse(config, chain, context, tmp_path / "scratch", rates=rates)
    assert rates == known  # what was timed is not timed again
    assert sorted(cache.rglob("*")) == before  # the study's own cache is left as it was


def test_a_teacher_is_trained_once_and_in_small(config: PipelineConfig, tmp_path: Path) -> None:
    context = StageContext(cache_dir=tmp_path / "cache", num_threads=1)
    rates: dict[str, StageRate] = {}
    student = make_chain(("dense", "pruned", "distilled"), pruning_ratio=0.5, distiller="dkd")
    for chain in (build_baselines(config)["teacher"], student):
        rehearse(config, chain, context, tmp_path / "scratch", rates=rates)
    (teacher,) = (tmp_path / "scratch/stages").glob("teacher-*/result.json")
    assert json.loads(teacher.read_text())["result"]["steps"] == NUM_STEPS


def test_a_rehearsal_is_small(config: PipelineConfig, tmp_path: Path) -> None:
    small = shrink(config, tmp_path)
    assert len(small.data.open("val")) == NUM_IMAGES
    assert len(small.data.open_cached("train", tmp_path / "elsewhere")) == NUM_IMAGES
    for schedule in (small.teacher_training, small.dense, small.sparse, small.distil):
        assert schedule.num_steps == NUM_STEPS
    assert small.data.open("val").fingerprint != config.data.open("val").fingerprint


def test_the_known_motion_of_drawn_frames_is_used(
    config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)  # the study does not need OpenCV
    drives = replace(config, data=replace(config.data, name="synthetic_drives"))
    images = shrink(drives, tmp_path).data.open("val")
    expected = drives.data.open("val").motion(5)  # type: ignore[attr-defined]
    assert torch.equal(find_motion(images)(5, 6).nan_to_num(), expected.nan_to_num())
    assert not hasattr(shrink(config, tmp_path).data.open("val"), "motion")


def test_time_beyond_the_limit_of_a_measurement_is_fixed() -> None:
    watch = Stopwatch(has_loaders=False)
    rate = watch.find_rate(6.3, Work(longest_seconds=1.0))
    assert (rate.longest_share, rate.fixed_seconds) == (1.0, pytest.approx(5.3))
    assert rate.predict(Work(longest_seconds=5.0)) == pytest.approx(10.3)
    early = watch.find_rate(0.4, Work(longest_seconds=1.0))
    assert early.predict(Work(longest_seconds=5.0)) == pytest.approx(2.0)


def test_a_scan_that_all_prunings_share_does_not_count_in_each(
    config: PipelineConfig, tmp_path: Path
) -> None:
    context = StageContext(cache_dir=tmp_path / "cache", num_threads=1)
    rates: dict[str, StageRate] = {}
    for scope in ("local", "sensitivity"):
        chain = make_chain(("dense", "pruned"), pruning_ratio=0.5, scope=scope)
        found: dict[str, StageRate] = {}
        rehearse(config, chain, context, tmp_path / "scratch", rates=found)
        rates[scope] = found[name_kind(chain)]
    (scan,) = (tmp_path / "scratch" / "stages").glob("scan-*/result.json")
    seconds = json.loads(scan.read_text())["result"]["seconds"]
    assert rates["sensitivity"].fixed_seconds < rates["local"].fixed_seconds + seconds / 2
