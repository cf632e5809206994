import importlib
import math
import multiprocessing
import threading

import pytest
import torch


@pytest.fixture
def step_time():
    return importlib.import_module("step_time")


def test_ratios_are_taken_within_a_round(step_time):
    # The machine halves its speed in the third round; the ratio does not notice.
    plain, fast = step_time.summarize({"plain": [2.0, 2.0, 4.0], "fast": [1.0, 1.0, 2.0]})
    assert (plain.speedup, plain.lowest, plain.highest) == (1, 1, 1)
    assert (fast.speedup, fast.lowest, fast.highest) == (2, 2, 2)
    assert fast.median_ms == 1000


def test_a_variant_of_fewer_rounds_is_compared_with_the_first_rounds(step_time):
    _, slow = step_time.summarize({"plain": [1.0, 5.0], "slow": [10.0]})
    assert slow.speedup == pytest.approx(0.1)
    assert slow.num_rounds == 1


@pytest.mark.parametrize("channels_last", [False, True])
def test_every_step_trains(step_time, channels_last):
    variant = step_time.Variant(1, channels_last=channels_last)
    step = step_time.make_step("dual_branch", variant, 2, (64, 64))
    losses = [step() for _ in range(3)]
    assert all(math.isfinite(loss) for loss in losses)
    assert losses[-1] < losses[0]


def test_the_plain_form_has_the_libraries_convolutions(step_time):
    model = step_time._build("deeplabv3plus")
    kinds = {type(module).__name__ for module in model.modules()}
    assert {"DilatedDepthwiseConv2d", "SamePaddedConv2d"} < kinds
    step_time.use_library_convolutions(model)
    kinds = {type(module).__name__ for module in model.modules()}
    assert {"Conv2d", "Conv2dSame"} < kinds
    assert not {"DilatedDepthwiseConv2d", "DilatedConv2d", "SamePaddedConv2d"} & kinds
    assert not [
        m for m in model.modules() if type(m).__module__ == "models.blocks.cpu_convolutions"
    ]


def test_a_worker_answers_each_message_with_a_time(step_time):
    threads = torch.get_num_threads()
    ours, theirs = multiprocessing.Pipe()
    settings = (theirs, "dual_branch", step_time.Variant(threads), 2, (64, 64))
    worker = threading.Thread(target=step_time.serve_steps, args=settings)
    worker.start()
    assert ours.recv() == 0
    ours.send("step")
    assert ours.recv() > 0
    ours.send("stop")
    worker.join(timeout=30)
    assert not worker.is_alive()


def test_the_lock_takes_less_than_a_step(step_time):
    assert 0 < step_time.measure_lock(num_blocks=2, block=5) < 1e5
