from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import tv_tensors
from torchvision.transforms import v2

from trainables.data import AugmentationConfig, Sample
from trainables.data.augmentation import Augmentation, _draw_interval
from trainables.data.logit_map import LogitMap, Window, crop, enlarge, shrink

STILL = {"brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0}


def smooth_map(height, width):
    """Two channels of slow waves, a value per pixel."""
    y = (torch.arange(height, dtype=torch.float64) + 0.5).view(-1, 1)
    x = (torch.arange(width, dtype=torch.float64) + 0.5).view(1, -1)
    return torch.stack([torch.sin(y / 25) + torch.cos(x / 31), torch.cos((x + y) / 40)])


def coarse(full, stride):
    size = tuple(full.shape[-2:])
    return LogitMap(shrink(full.unsqueeze(0), stride)[0], size_in_pixels=size, cell_stride=stride)


def test_cells_are_read_between_the_pixels():
    # Stride 4: cell i lies between pixels 4 i + 1 and 4 i + 2.
    row = torch.arange(8, dtype=torch.float32).view(1, 1, 1, 8).expand(1, 1, 4, 8)
    assert shrink(row, 4)[0, 0].tolist() == [[1.5, 5.5]]
    # Back: pixel 3, centre 3.5, lies 1.5/4 of the way from 2 (cell 0) to 6 (cell 1).
    fine = enlarge(shrink(row, 4), (4, 8))
    assert fine[0, 0, 0, 3] == pytest.approx(1.5 + 1.5 / 4 * 4)
    assert fine[0, 0, 0, 2:6].tolist() == [2, 3, 4, 5]


@pytest.mark.parametrize("size", [(64, 96), (61, 90), (3, 5)])
@pytest.mark.parametrize("stride", [1, 2, 3, 4, 8])
def test_there_and_back(size, stride):
    full = smooth_map(*size)
    again = enlarge(shrink(full.unsqueeze(0), stride), size)[0]
    assert again.shape == full.shape
    inner = slice(stride, -stride)
    error = (again - full).abs()[:, inner, inner]
    assert error.numel() == 0 or error.max() < 0.03


def test_a_whole_image_as_it_is_stays_as_it_is():
    logits = coarse(smooth_map(61, 90), 4)
    same = crop(logits, Window(0, 61, 0, 61), Window(0, 90, 0, 90), (61, 90))
    torch.testing.assert_close(same.as_subclass(torch.Tensor), logits.as_subclass(torch.Tensor))


def test_a_shift_by_part_of_a_cell_by_hand():
    # Values 1.5, 5.5, 9.5, 13.5 at pixels 2, 6, 10, 14; the crop starts at pixel 3, so that its
    # cells lie at pixels 5 and 9: a quarter of a cell before 6 and 10.
    ramp = LogitMap(torch.tensor([[[1.5, 5.5, 9.5, 13.5]]]), size_in_pixels=(4, 16), cell_stride=4)
    part = crop(ramp, Window(0, 4, 0, 4), Window(3, 8, 0, 8), (4, 8))
    assert part[0, 0].tolist() == [4.5, 8.5]


def test_padding_is_zero_but_for_the_cells_that_pixels_of_the_image_need():
    ones = LogitMap(torch.ones(1, 2, 2), size_in_pixels=(8, 8), cell_stride=4)
    part = crop(ones, Window(0, 8, 0, 8), Window(0, 8, 8, 8), (8, 24))
    # Cells at pixels 2, 6, 10, 14, 18, 22; the image covers 8 to 16 and needs 6 to 18.
    assert part[0, 0].tolist() == [0, 1, 1, 1, 1, 0]
    fine = enlarge(part.as_subclass(torch.Tensor).unsqueeze(0), (8, 24))
    assert (fine[0, 0, :, 8:16] == 1).all()


@given(
    size=st.tuples(st.integers(48, 160), st.integers(48, 160)),
    crop_size=st.tuples(st.integers(24, 120), st.integers(24, 120)),
    scale=st.floats(0.5, 2.0),
    draws=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    stride=st.sampled_from([1, 2, 4]),
)
@settings(max_examples=100)
def test_the_crop_of_the_coarse_map_is_the_coarse_crop(size, crop_size, scale, draws, stride):
    # A plane, which bilinear reading keeps exactly: being off by a fraction of a pixel shows.
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    full = torch.stack([0.02 * y + 0.01 * x, 1 - 0.03 * x])
    axes = zip(size, crop_size, draws, strict=True)
    rows, columns = (
        Window(*_draw_interval(length, part, scale, draw)) for length, part, draw in axes
    )
    fine = enlarge(crop(coarse(full, stride), rows, columns, crop_size).unsqueeze(0), crop_size)[0]
    # Directly: cut at full size and scale as the image is scaled.
    bottom, right = rows.begin + rows.length, columns.begin + columns.length
    direct = v2.functional.resize_image(
        full[:, rows.begin : bottom, columns.begin : right],
        [rows.covered, columns.covered],
        antialias=True,
    )
    bottom, right = rows.place + rows.covered, columns.place + columns.covered
    placed = fine[:, rows.place : bottom, columns.place : right]
    error = (placed - direct).abs()
    # At the edges of window and image the two repeat different values.
    assert error.max() < 0.03 * 3 * (stride + 1)
    margin = 4 * stride + 2
    inner = error[:, margin:-margin, margin:-margin]
    # A widened triangle filter keeps planes to within a tenth of a cell.
    tolerance = 1e-4 if scale > 1.1 else 0.1 * stride * 0.03 / scale
    assert inner.numel() == 0 or inner.max() < tolerance


@pytest.mark.parametrize("crop_size", [(40, 60), (32, 32), (33, 50), (100, 120)])
@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_logits_follow_the_image(crop_size, flip):
    """The image itself, as logits, goes the way of the image."""
    full = ((smooth_map(64, 96) + 2) * 63).round()
    image = torch.cat([full, full[:1]]).to(torch.uint8)
    sample = Sample(image, torch.zeros(64, 96, dtype=torch.uint8))
    config = AugmentationConfig(crop_size=crop_size, flip_probability=flip, **STILL)
    augment = Augmentation(config)
    for seed in range(10):
        torch.manual_seed(seed)
        plain = augment(sample)
        torch.manual_seed(seed)
        taught = augment.vary_taught(sample, coarse(full, 4), {})
        assert torch.equal(taught.image, plain.image)
        assert torch.equal(taught.target, plain.target)
        fine = enlarge(taught.teacher_logits.unsqueeze(0), crop_size)[0]
        error = (fine - plain.image[:2]).abs()[:, plain.target == 0]
        assert error.max() < 14
        assert error.mean() < 1.5


def test_a_flip_mirrors_and_keeps_the_type():
    logits = LogitMap(torch.arange(6.0).view(1, 2, 3), size_in_pixels=(8, 12), cell_stride=4)
    image = tv_tensors.Image(torch.zeros(3, 8, 12, dtype=torch.uint8))
    _, flipped = v2.RandomHorizontalFlip(1.0)(image, logits)
    assert isinstance(flipped, LogitMap)
    assert flipped.cell_stride == 4
    assert flipped.tolist() == [[[2, 1, 0], [5, 4, 3]]]


def test_the_number_of_threads_changes_no_bit():
    logits = LogitMap(
        torch.randn(19, 90, 120, generator=torch.Generator().manual_seed(0)),
        size_in_pixels=(360, 480),
        cell_stride=4,
    )
    threads = torch.get_num_threads()
    crops = []
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            crops.append(crop(logits, Window(7, 301, 0, 240), Window(11, 417, 0, 320), (240, 320)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*crops)
