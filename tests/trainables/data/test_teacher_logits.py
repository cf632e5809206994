from __future__ import annotations

import pickle
import shutil
from collections import namedtuple

import pytest
import torch

from trainables.data import (
    AugmentationConfig,
    DataError,
    TaughtSample,
    TeacherLogits,
    TrainingStream,
    cache_logits,
    make_loader,
)
from trainables.data.logit_map import shrink
from trainables.data.top_logits import pack_top, unpack_top

CROP = AugmentationConfig(crop_size=(24, 40))


@pytest.fixture
def dataset(open_dataset):
    return open_dataset("synthetic")


def say(dataset, factor=1.0):
    """A teacher that sees brightness: its logits of an image are known."""

    def compute(index):
        grey = dataset[index].image.float().mean(dim=0)
        shares = torch.linspace(-1, 1, dataset.num_classes).view(-1, 1, 1)
        return shrink((factor * grey * shares).unsqueeze(0), 4)[0]

    return compute


def content_of(dataset):
    return {"teacher": "teacher-1", "dataset": dataset.fingerprint, "stride": 4}


def cache(dataset, tmp_path, compute=None):
    return cache_logits(dataset, tmp_path, content_of(dataset), compute or say(dataset))


def refuse(index):
    raise AssertionError("must not be computed")


def test_maps_are_what_the_teacher_said(dataset, tmp_path):
    logits = cache(dataset, tmp_path)
    assert len(logits) == len(dataset)
    for index in range(len(dataset)):
        assert logits[index].shape == (19, 8, 16)
        assert logits[index].dtype == torch.float16
        expected = say(dataset)(index).half()
        assert torch.equal(logits[index].as_subclass(torch.Tensor), expected)
    assert logits.folder.joinpath("logits.float16").stat().st_size == 6 * 19 * 8 * 16 * 2
    again = cache(dataset, tmp_path, refuse)
    assert again.folder == logits.folder


def test_the_largest_logits_alone_take_less_disk(dataset, tmp_path, caplog):
    with caplog.at_level("INFO"):
        logits = cache_logits(dataset, tmp_path, content_of(dataset) | {"top_k": 3}, say(dataset))
    assert logits.folder.joinpath("logits.float16").stat().st_size == 6 * 7 * 8 * 16 * 2
    assert "the teacher's 3 largest logits of 6 images" in caplog.text
    assert logits[1].shape == (19, 8, 16)
    taught = logits[1].as_subclass(torch.Tensor)
    expected = unpack_top(pack_top(say(dataset)(1), 3).half(), 19)
    assert torch.equal(taught, expected)


@pytest.mark.parametrize(
    "change", [{"teacher": "teacher-2"}, {"dataset": "x"}, {"stride": 2}, {"top_k": 3}]
)
def test_another_teacher_data_set_or_coarseness_is_never_taken(dataset, tmp_path, change):
    first = cache(dataset, tmp_path)

    class Refused(Exception):
        pass

    def notice(index):
        raise Refused

    with pytest.raises(Refused):
        cache_logits(dataset, tmp_path, content_of(dataset) | change, notice)
    # Not even where somebody has put the folder at the other's place.
    with pytest.raises(DataError, match="expected"):
        TeacherLogits(first.folder, content_of(dataset) | change)


def test_the_stream_refuses_logits_of_another_data_set(dataset, open_dataset, tmp_path):
    logits = cache(dataset, tmp_path)
    for other in (open_dataset("synthetic", seed=1), open_dataset("synthetic", num_samples=5)):
        with pytest.raises(ValueError, match="belong to data set"):
            TrainingStream(other, CROP, seed=0, teacher_logits=logits)


@pytest.mark.parametrize("damage", ["cut off", "no index", "other index", "no logits"])
def test_a_damaged_cache_is_made_anew(dataset, tmp_path, damage, caplog):
    folder = cache(dataset, tmp_path).folder
    data, index = folder / "logits.float16", folder / "index.json"
    if damage == "cut off":
        data.write_bytes(data.read_bytes()[:-100])
    elif damage == "no index":
        index.unlink()
    elif damage == "other index":
        index.write_text(index.read_text().replace("teacher-1", "teacher-2"))
    else:
        data.unlink()
    again = cache(dataset, tmp_path)
    assert "rebuilding it" in caplog.text
    assert torch.equal(again[3].as_subclass(torch.Tensor), say(dataset)(3).half())


def test_a_map_that_is_not_what_was_written_is_named_and_the_cache_made_anew(dataset, tmp_path):
    logits = cache(dataset, tmp_path)
    expected = logits[2].clone()
    with (logits.folder / "logits.float16").open("r+b") as file:
        file.seek(2 * 19 * 8 * 16 * 2)
        file.write(b"\x00\x7e")  # NaN
    fresh = cache(dataset, tmp_path, refuse)
    fresh[1]
    with pytest.raises(DataError, match="the map of image 2 is not what was written"):
        fresh[2]
    assert torch.equal(cache(dataset, tmp_path)[2], expected)


def test_a_computation_that_dies_leaves_nothing(dataset, tmp_path):
    def die(index):
        if index == 3:
            raise KeyboardInterrupt
        return say(dataset)(index)

    with pytest.raises(KeyboardInterrupt):
        cache(dataset, tmp_path, die)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]


def test_a_full_disk_is_refused_before_the_teacher_works(dataset, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(1000, 900, 100))
    with pytest.raises(OSError, match="takes 29184 bytes of disk but only 100 are free"):
        cache(dataset, tmp_path, refuse)


def test_disk_bytes_are_reported_before_they_are_taken(dataset, tmp_path, caplog):
    with caplog.at_level("INFO"):
        cache(dataset, tmp_path)
    assert "29184 bytes" in caplog.records[0].message


def test_logits_that_are_no_numbers_are_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="train_00000: the teacher's logits are not finite"):
        cache(dataset, tmp_path, say(dataset, float("nan")))
    large = cache(dataset, tmp_path, say(dataset, 1e6))
    assert large[0].isfinite().all()


def test_the_handle_pickles_small_and_opens_again(dataset, tmp_path):
    logits = cache(dataset, tmp_path)
    expected = logits[2].clone()
    content = pickle.dumps(logits)
    assert len(content) < 4096
    assert torch.equal(pickle.loads(content)[2].as_subclass(torch.Tensor), expected)


def test_images_and_labels_are_the_same_with_and_without_a_teacher(dataset, tmp_path):
    plain = TrainingStream(dataset, CROP, seed=3)
    taught = TrainingStream(dataset, CROP, seed=3, teacher_logits=cache(dataset, tmp_path))
    first = [taught[position] for position in range(12)]
    for position in reversed(range(12)):
        sample = taught[position]
        assert torch.equal(sample.image, plain[position].image)
        assert torch.equal(sample.target, plain[position].target)
        assert torch.equal(sample.teacher_logits, first[position].teacher_logits)


def test_a_batch_holds_the_logits(dataset, tmp_path):
    stream = TrainingStream(dataset, CROP, seed=3, teacher_logits=cache(dataset, tmp_path))
    (batch,) = make_loader(stream, batch_size=4, num_steps=1)
    assert isinstance(batch, TaughtSample)
    assert batch.teacher_logits.shape == (4, 19, 6, 10)
    assert batch.teacher_logits.dtype == torch.float16
    assert type(batch.teacher_logits) is torch.Tensor
