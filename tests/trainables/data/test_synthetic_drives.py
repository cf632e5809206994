import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from trainables.data import create_dataset
from trainables.data.driven_canvas import DrivenCanvas
from trainables.data.frame_pairs import find_frame_pairs
from trainables.data.optical_flow import estimate_motion, find_motion
from trainables.data.scene import Camera
from trainables.metrics import TemporalConsistency, bring_back


@pytest.fixture(scope="module")
def drives():
    return create_dataset("synthetic_drives", split="val", size=(64, 128), num_samples=12)


def test_a_drive_begins_with_the_still_scene(drives):
    still = create_dataset("synthetic", split="val", size=(64, 128), num_samples=3)
    for drive in range(3):
        assert torch.equal(drives[4 * drive].target, still[drive].target)
    assert not torch.equal(drives[0].target, drives[3].target)
    assert torch.equal(drives[1].image, drives[1].image)
    assert drives.fingerprint != still.fingerprint


def test_frames_of_a_drive_are_neighbours(drives):
    pairs = [(4 * drive + f, 4 * drive + f + 1) for drive in range(3) for f in range(3)]
    assert find_frame_pairs(drives) == pairs
    with pytest.raises(ValueError, match="val-00001_03 is the last frame of its drive"):
        drives.motion(7)


def test_the_known_motion_carries_the_labels_over(drives):
    for index in (0, 1, 5, 10):
        here, there, motion = drives[index].target, drives[index + 1].target, drives.motion(index)
        moved = bring_back(there, motion)
        known = moved != 255
        assert known.float().mean() > 0.6
        agree = (moved == here)[known].float().mean()
        assert agree > 0.97
        assert agree > (there == here)[known].float().mean() + 0.01


def test_motion_by_hand():
    camera = Camera(focal=40.0, horizon=20.0, centre=40.0, height_m=1.5)
    canvases = []
    for ahead in (0.0, 1.0):
        options = {"haze": (0, 0, 0), "haze_m": 100.0, "left_light": 1.0}
        canvas = DrivenCanvas(camera, Image.new("CMYK", (80, 40)), ahead_m=ahead, **options)
        canvas.plate(3, (9, 9, 9), (-8.0, 8.0), (0.0, 6.0), 5.0)
        canvases.append(canvas)
    depth = canvases[0].measure_depth()
    assert set(np.unique(depth)) <= {5.0, np.inf}
    motion = canvases[0].find_motion(canvases[1], 1.0)
    # The plate fills the columns; at 4 m instead of 5 all of it is 5 / 4 as far from the middle.
    column, row = 30, 12
    expected = (column + 0.5 - 20) * 0.25, (row + 0.5 - 10) * 0.25
    np.testing.assert_allclose(motion[:, row, column], expected, rtol=1e-6)
    assert np.isnan(motion[:, row, 39]).all()  # it leaves the picture


def test_consistency_by_hand():
    meter = TemporalConsistency(3)
    prediction = torch.tensor([[0, 1, 1, 2]])
    following = torch.tensor([[2, 0, 1, 0]])
    motion = torch.stack([torch.ones(1, 4), torch.zeros(1, 4)])
    meter.update(prediction, following, motion)
    # Moved back: 0, 1, 0, and the last one outside: class 0: 1 of 2, class 1: 1 of 2.
    assert meter.miou == pytest.approx(0.5)
    motion[0, 0, 2] = torch.nan
    meter = TemporalConsistency(3)
    meter.update(prediction, following, motion)
    assert meter.miou == 1.0
    with pytest.raises(ValueError, match=r"motion must be \(2, 1, 4\)"):
        meter.update(prediction, following, motion[:, :, :2])


def test_without_opencv_the_remedy_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[flow\]'"):
        find_motion(SimpleNamespace())


def test_estimated_motion_of_a_shifted_image():
    pytest.importorskip("cv2")
    noise = torch.randint(0, 255, (1, 3, 24, 32), generator=torch.Generator().manual_seed(0))
    scene = torch.nn.functional.interpolate(noise.float(), scale_factor=4, mode="bicubic")
    scene = scene[0].clamp(0, 255).to(torch.uint8)
    motion = estimate_motion(scene[:, :, 6:], scene[:, :, :-6])
    known = ~motion[0].isnan()
    assert known.float().mean() > 0.7
    assert motion[0][known].median().item() == pytest.approx(6, abs=0.3)
    assert motion[1][known].median().item() == pytest.approx(0, abs=0.3)
