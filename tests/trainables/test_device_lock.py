import threading
import time

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
