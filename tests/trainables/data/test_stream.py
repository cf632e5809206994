from __future__ import annotations

import pytest
import torch

from trainables.data import AugmentationConfig, TrainingStream, cache_dataset, make_loader

CROP = AugmentationConfig(crop_size=(24, 40))


@pytest.fixture
def stream(open_dataset):
    return TrainingStream(open_dataset("synthetic"), CROP, seed=3)


def same(a, b):
    return torch.equal(a.image, b.image) and torch.equal(a.target, b.target)


def test_shapes(stream):
    image, target = stream[0]
    assert image.shape == (3, 24, 40)
    assert target.shape == (24, 40)
    assert image.dtype == target.dtype == torch.uint8


def test_a_position_is_a_pure_function_of_the_seed(stream, open_dataset):
    forwards = [stream[position] for position in range(20)]
    other = TrainingStream(open_dataset("synthetic"), CROP, seed=3)
    torch.manual_seed(99)
    for position in reversed(range(20)):
        assert same(other[position], forwards[position])
    different = TrainingStream(open_dataset("synthetic"), CROP, seed=4)
    assert not any(same(different[position], forwards[position]) for position in range(6))


def test_each_epoch_is_another_permutation(stream):
    epochs = [[stream.index_of(6 * epoch + i) for i in range(6)] for epoch in range(8)]
    assert all(sorted(epoch) == list(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 4


def test_the_same_image_is_varied_anew_each_epoch(stream):
    first = stream.index_of(0)
    again = next(position for position in range(6, 12) if stream.index_of(position) == first)
    assert not same(stream[0], stream[again])


def test_global_random_state_is_left_alone(stream):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    stream[5]
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")  # 1 core
@pytest.mark.parametrize("num_workers", [0, 2])
def test_resumed_run_sees_what_the_uninterrupted_one_saw(open_dataset, tmp_path, num_workers):
    dataset = cache_dataset(open_dataset("synthetic"), tmp_path / "cache")
    stream = TrainingStream(dataset, CROP, seed=3)
    whole = list(make_loader(stream, batch_size=4, num_steps=5))
    rest = list(
        make_loader(stream, batch_size=4, num_steps=5, start_step=2, num_workers=num_workers)
    )
    assert len(whole) == 5
    assert len(rest) == 3
    assert whole[0].image.shape == (4, 3, 24, 40)
    assert all(same(a, b) for a, b in zip(whole[2:], rest, strict=True))


def test_wrong_arguments(stream, open_dataset):
    with pytest.raises(IndexError, match="-1"):
        stream[-1]
    with pytest.raises(ValueError, match="batch_size"):
        make_loader(stream, batch_size=0, num_steps=1)
    with pytest.raises(ValueError, match="start_step must be from 0 to num_steps=1; got 2"):
        make_loader(stream, batch_size=1, num_steps=1, start_step=2)
    with pytest.raises(ValueError, match="num_positions"):
        TrainingStream(open_dataset("synthetic"), CROP, seed=0, num_positions=-1)


def test_length_is_one_epoch_unless_given(stream, open_dataset):
    assert len(stream) == 6
    assert len(TrainingStream(open_dataset("synthetic"), CROP, seed=0, num_positions=50)) == 50
