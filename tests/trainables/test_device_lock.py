import threading
import time

import pytest

from trainables.process.device_lock import DeviceLock


def test_a_probe_waits_for_steps_and_keeps_new_ones_out(tmp_path):
    events = []
    first_step = threading.Event()

    def train():
        lock = DeviceLock("cpu", tmp_path)
        for _ in range(30):
            with lock.shared():
                events.append("step")
                first_step.set()
                time.sleep(0.01)
                events.append("done")

    def probe():
        first_step.wait()
        with DeviceLock("cpu", tmp_path).exclusive():
            events.append("probe")
            time.sleep(0.1)
            events.append("probed")

    threads = [threading.Thread(target=train), threading.Thread(target=train),
               threading.Thread(target=probe)]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    start = events.index("probe")
    assert events[start + 1] == "probed"
    assert events[:start].count("step") == events[:start].count("done")
    assert 0 < start < len(events) - 2, "the probe neither starved nor came first"


def test_devices_do_not_wait_for_each_other(tmp_path):
    with DeviceLock("cpu", tmp_path).exclusive(), DeviceLock("cuda:0", tmp_path).exclusive():
        pass


@pytest.mark.parametrize(
    ("device", "visible", "other", "is_same"),
    [
        ("cuda", "2", "cuda:2", True),
        ("cuda", None, "cuda:0", True),
        ("cuda:1", "0, 2", "cuda:2", True),
        ("cuda", "2", "cuda", False),
        ("cuda:1", "0,2", "cuda:1", False),
    ],
)
def test_a_gpu_has_one_lock_under_all_of_its_numbers(
    tmp_path, monkeypatch, device, visible, other, is_same
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    outside = DeviceLock(other, tmp_path)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    worker = DeviceLock(device, tmp_path)
    assert (worker.identity == outside.identity) == is_same
