import pytest
import torch

from trainables.data import AugmentationConfig, create_dataset
from trainables.data.dataset import Sample, SegmentationDataset
from trainables.data.frame_pairs import FramePairStream, find_frame_pairs, warn_of_gaps


class Named(SegmentationDataset):
    """Images that hold their index, under given names."""

    name = "named"
    classes = ("a", "b")
    split = "train"
    fingerprint = "named"

    def __init__(self, *names):
        self.names = names

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        ramp = torch.arange(64, dtype=torch.uint8).expand(3, 64, 64).clone()
        ramp[0] = index
        return Sample(ramp, torch.zeros(64, 64, dtype=torch.uint8))

    def sample_name(self, index):
        return self.names[index]

    def sample_size(self, index):
        return (64, 64)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("0016E5_07959", "0016E5_07961", "0016E5_07963"), [(0, 1), (1, 2)]),
        (("b_3", "a_20", "b_2", "a_10", "b_1"), [(3, 1), (4, 2), (2, 0)]),
        # 60 is missing; 30 is usual in this drive.
        (("d_0", "d_30", "d_90", "d_120", "d_150"), [(0, 1), (2, 3), (3, 4)]),
        (("d_9", "d_10"), [(0, 1)]),
        (("no", "number"), []),
        (("d_1",), []),
        (("d_1", "e_2"), []),
        (("0001TP_000030_L", "0001TP_000060_L"), [(0, 1)]),
    ],
)
def test_pairs_are_read_from_the_names(names, expected):
    assert find_frame_pairs(Named(*names)) == expected


def test_still_scenes_have_no_neighbours():
    assert find_frame_pairs(create_dataset("synthetic", num_samples=5)) == []


def test_both_frames_are_varied_alike_and_each_pair_comes_once():
    dataset = Named(*(f"d_{number}" for number in range(5)))
    stream = FramePairStream(dataset, AugmentationConfig(crop_size=(32, 32)), seed=4)
    seen = []
    for pair in range(4):
        first, second = stream.index_of(2 * pair), stream.index_of(2 * pair + 1)
        assert second == first + 1
        seen.append((first, second))
    assert sorted(seen) == find_frame_pairs(dataset)
    still = AugmentationConfig(
        crop_size=(32, 32), brightness=0, contrast=0, saturation=0, hue=0, flip_probability=0.5
    )
    stream = FramePairStream(dataset, still, seed=4)
    for pair in range(4):
        one, two = stream[2 * pair].image, stream[2 * pair + 1].image
        assert torch.equal(one[1:], two[1:])  # the ramps: same crop, scale and flip
    assert not torch.equal(stream[0].image[1:], stream[2].image[1:])
    with pytest.raises(IndexError):
        stream.index_of(-1)


def test_a_data_set_without_neighbours_is_refused():
    stream = FramePairStream(Named("x", "y"), AugmentationConfig(crop_size=(32, 32)), seed=0)
    with pytest.raises(ValueError, match="no consecutive frames; images of a drive must be named"):
        stream[0]


@pytest.mark.parametrize(
    ("names", "others", "is_far"),
    [
        (("d_0", "d_5", "d_10"), [f"d_{i}" for i in range(10) if i % 5], True),
        (("d_0", "d_5", "d_10"), [f"e_{i}" for i in range(10)], False),  # a slower camera
        (("d_0", "d_2", "d_4"), ("d_1", "d_3"), False),
        (("d_1", "d_500"), (), False),
        (("d_1", "e_2"), ("d_2",), False),
        (("no", "number"), ("d_2",), False),
    ],
)
def test_frames_whose_neighbours_are_in_another_split_are_warned_of(names, others, is_far):
    warnings = warn_of_gaps(Named(*names), Named(*others))
    assert len(warnings) == is_far
    if is_far:
        assert "frames of 'train' are 5 times as far apart" in warnings[0]
