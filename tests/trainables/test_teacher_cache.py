from dataclasses import replace

import pytest
import torch

from models.checkpoint import load_checkpoint
from trainables.artifacts.store import ArtifactStore
from trainables.chain import make_chain
from trainables.data import AugmentationConfig, TaughtSample, TrainingStream, normalize
from trainables.data.logit_map import enlarge
from trainables.distillers import DISTILLERS, Lesson, build_loss
from trainables.learning import teacher_cache
from trainables.learning.teacher_cache import TeacherLogitsConfig, cache_teacher
from trainables.learning.training import Batch, TrainConfig, train
from trainables.pipeline import build_baselines, build_stages, run_stage
from trainables.stages.teaching import read_cached_logits

CACHED_MAPS = TeacherLogitsConfig(maps="cached")
LIVE = TeacherLogitsConfig(source="live")
CACHED = TeacherLogitsConfig()
UNVARIED = AugmentationConfig(
    crop_size=(64, 96), scale_range=(1.0, 1.0), flip_probability=0.0,
    brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0,
)  # fmt: skip


@pytest.fixture
def store(tmp_path):
    return ArtifactStore(tmp_path / "stages")


@pytest.fixture
def teacher(tiny_config, store, context):
    return (
        build_stages(tiny_config, build_baselines(tiny_config)["teacher"])[0]
        .obtain(store, context)
        .checkpoint
    )


@pytest.fixture
def images(tiny_config, context):
    return tiny_config.data.open_cached("train", context.cache_dir)


def distil(config, store, context, **settings):
    return build_stages(config, make_chain(**settings))[-1].obtain(store, context)


def find_caches(context):
    return [path for path in context.cache_dir.glob("teacher-logits-*") if path.is_dir()]


def test_cached_logits_are_those_of_the_teacher(teacher, images, context):
    cached = cache_teacher(teacher, images, context, CACHED, precision="float32")
    model = load_checkpoint(teacher)
    for index in range(len(images)):
        with torch.no_grad():
            expected = model(normalize(images[index].image.unsqueeze(0)))
        fine = enlarge(cached.logits[index].unsqueeze(0), (64, 96))
        assert (fine - expected).abs().mean() < 0.05 * expected.std()


def test_the_teacher_is_asked_once(teacher, images, context, monkeypatch):
    first = cache_teacher(teacher, images, context, CACHED, precision="float32")
    monkeypatch.setattr(teacher_cache, "load_checkpoint", None)
    second = cache_teacher(teacher, images, context, CACHED, precision="float32")
    assert first.seconds > 0
    assert second.seconds == 0
    assert second.logits.folder == first.logits.folder


def test_other_weights_of_the_same_artefact_are_another_teacher(
    teacher, tiny_config, images, context
):
    first = cache_teacher(teacher, images, context, CACHED, precision="float32")
    content = bytearray(teacher.read_bytes())
    content[-1] ^= 1
    teacher.write_bytes(bytes(content))
    second = cache_teacher(teacher, images, context, CACHED, precision="float32")
    assert second.seconds > 0
    assert second.logits.folder != first.logits.folder


def test_cached_and_live_teacher_agree_where_nothing_is_varied(tiny_config, context, store):
    still = replace(tiny_config, data=replace(tiny_config.data, augmentation=UNVARIED))
    one_step = replace(still, distil=TrainConfig(num_steps=1, batch_size=4))
    losses = {
        source: distil(
            replace(one_step, teacher_logits=TeacherLogitsConfig(source=source, stride=4)),
            store, context, beta=1.0, eta=0.0,
        ).result["losses"][0][1]
        for source in ("cached", "live")
    }  # fmt: skip
    assert losses["live"] > 0
    assert losses["cached"] == pytest.approx(losses["live"], rel=0.02)


@pytest.mark.parametrize("distiller", ["cwd_features", "skd", "adaptive_channel", "kd+low_level"])
def test_cached_and_live_maps_agree_where_nothing_is_varied(
    tiny_config, context, store, distiller, caplog
):
    still = replace(tiny_config, data=replace(tiny_config.data, augmentation=UNVARIED))
    one_step = replace(still, distil=TrainConfig(num_steps=1, batch_size=4))
    with caplog.at_level("INFO"):
        live, cached = (
            distil(replace(one_step, teacher_logits=source), store, context, distiller=distiller)
            for source in (LIVE, CACHED_MAPS)
        )
    assert cached.result["losses"][0][1] == pytest.approx(live.result["losses"][0][1], rel=0.02)
    assert cached.folder != live.folder
    announced = [text for text in caplog.messages if "channels at layer" in text]
    assert len(announced) == len(find_caches(context)) - 1  # the others hold layers, one the logits
    assert all("MiB of disk" in text for text in announced)
    again = replace(one_step, teacher_logits=CACHED_MAPS)
    other = distil(again, store, context, distiller=distiller, lr=2e-3).result
    assert 0 == other["teacher_cache_seconds"] < cached.result["teacher_cache_seconds"]


def test_distillers_of_one_layer_share_its_cache(tiny_config, context, store):
    config = replace(tiny_config, teacher_logits=CACHED_MAPS)
    for distiller in ("cwd_features", "skd"):
        distil(config, store, context, distiller=distiller)
    assert len(find_caches(context)) == 2


def test_the_source_of_maps_counts_only_where_maps_are_read(tiny_config):
    def key(teacher_logits, distiller):
        config = replace(tiny_config, teacher_logits=teacher_logits)
        return build_stages(config, make_chain(distiller=distiller))[-1].key

    assert key(CACHED, "dkd") == key(CACHED_MAPS, "dkd")
    assert key(CACHED, "skd") == key(LIVE, "skd") != key(CACHED_MAPS, "skd")


@pytest.mark.parametrize("distiller", ["dkd", "kd"])
@pytest.mark.parametrize("source", [CACHED, TeacherLogitsConfig(top_k=2), LIVE])
def test_any_teacher_trains_a_student(tiny_config, context, store, distiller, source):
    config = replace(tiny_config, teacher_logits=source)
    result = distil(config, store, context, distiller=distiller).result
    assert 0 <= result["miou"] <= 1
    assert bool(find_caches(context)) == source.cached
    assert ("teacher_cache_seconds" in result) == source.cached


def test_too_many_largest_logits_are_refused_before_the_teacher_works(teacher, images, context):
    with pytest.raises(ValueError, match="at most 8 for this data set; got 9"):
        cache_teacher(teacher, images, context, TeacherLogitsConfig(top_k=9), precision="float32")
    assert not find_caches(context)


def test_the_cache_is_paid_for_once(tiny_config, context, store):
    first = distil(tiny_config, store, context, temperature=2.0).result
    second = distil(tiny_config, store, context, temperature=3.0).result
    assert 0 < first["teacher_cache_seconds"] < first["seconds"]
    assert second["teacher_cache_seconds"] == 0
    assert len(find_caches(context)) == 1


def test_a_cache_made_before_a_pause_is_paid_for_once(tiny_config, context, store):
    stage = build_stages(tiny_config, make_chain())[-1]
    paused = stage.advance(store, context, 0.5)
    ended = stage.obtain(store, context).result
    assert 0 < paused["teacher_cache_seconds"] == ended["teacher_cache_seconds"]
    assert paused["seconds"] < ended["seconds"]


def test_another_teacher_has_another_cache(tiny_config, context, store):
    distil(tiny_config, store, context)
    longer = replace(tiny_config.teacher_training, num_steps=5)
    distil(replace(tiny_config, teacher_training=longer), store, context)
    assert len(find_caches(context)) == 2


def test_a_student_of_labels_alone_makes_no_cache(tiny_config, context, store):
    distil(tiny_config, store, context, distiller="none")
    assert not find_caches(context)


def test_the_source_counts_in_the_key_only_where_a_teacher_is_needed(tiny_config):
    def key(teacher_logits, **settings):
        config = replace(tiny_config, teacher_logits=teacher_logits)
        return build_stages(config, make_chain(**settings))[-1].key

    coarser, fewer = TeacherLogitsConfig(stride=8), TeacherLogitsConfig(top_k=3)
    assert len({key(CACHED), key(coarser), key(fewer), key(LIVE)}) == 4
    assert key(LIVE) == key(replace(LIVE, stride=8, top_k=3))
    assert key(CACHED, distiller="none") == key(LIVE, distiller="none")


def test_a_taught_training_goes_on_where_it_was(tiny_config, teacher, images, context, tmp_path):
    logits = cache_teacher(teacher, images, context, CACHED, precision="float32").logits
    stream = TrainingStream(images, tiny_config.data.augmentation, seed=3, teacher_logits=logits)
    config = TrainConfig(num_steps=4, batch_size=2)
    methods = {"dkd": DISTILLERS["dkd"].Settings()}
    loss = build_loss(methods, student=load_checkpoint(teacher), teacher=None, image_size=(64, 64))

    def compute_loss(output, batch):
        taught = read_cached_logits(output, batch)
        return loss.compute_total(Lesson(output, taught, batch.target))

    class Killed(Exception):
        pass

    def kill(progress):
        if progress.step == 3:
            raise Killed

    def learn(path, context):
        model = load_checkpoint(teacher)
        train(
            model, stream, config, name="distilled", state_path=path, context=context,
            compute_loss=compute_loss,
        )  # fmt: skip
        return model.state_dict()

    whole = learn(tmp_path / "whole", context)
    with pytest.raises(Killed):
        learn(tmp_path / "broken", replace(context, checkpoint_seconds=0.0, report=kill))
    resumed = learn(tmp_path / "broken", context)
    assert isinstance(stream[0], TaughtSample)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_batch_without_logits_is_refused():
    batch = Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8))
    with pytest.raises(ValueError, match="must contain the teacher's logits"):
        read_cached_logits(torch.zeros(1, 2, 8, 8), batch)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stride": 0}, "stride must be at least 1, got 0"),
        ({"top_k": 0}, "top_k must be at least 1, got 0"),
        ({"source": "dead"}, "source must be cached or live, got 'dead'"),
        ({"maps": "dead"}, "maps must be cached or live, got 'dead'"),
        ({"source": "live", "maps": "cached"}, "set source to cached"),
    ],
)
def test_bad_values_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        TeacherLogitsConfig(**change)


def test_a_cache_made_ahead_serves_the_training(tiny_config, context, store):
    chain = make_chain(distiller="kd")
    run_stage(tiny_config, make_chain(("teacher",)), store, context)
    run_stage(tiny_config, chain, store, context, is_ahead=True)
    assert len(find_caches(context)) == 1
    assert not list(store.root.glob("dense-*"))
    result = distil(tiny_config, store, context, distiller="kd").result
    assert result["teacher_cache_seconds"] == 0


def test_nothing_is_cached_ahead_for_a_live_teacher(tiny_config, context, store):
    live = replace(tiny_config, teacher_logits=LIVE)
    run_stage(live, make_chain(distiller="kd"), store, context, is_ahead=True)
    assert not find_caches(context)
