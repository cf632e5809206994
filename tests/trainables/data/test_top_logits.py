from __future__ import annotations

import pytest
import torch

from trainables.data.top_logits import check_top_k, num_channels, pack_top, unpack_top


@pytest.fixture
def logits():
    return 4 * torch.randn(11, 5, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("top_k", [1, 3, 4])
def test_the_largest_keep_logit_and_probability_and_the_others_their_sum(logits, top_k):
    packed = pack_top(logits, top_k)
    assert packed.shape == (num_channels(11, top_k), 5, 7)
    restored = unpack_top(packed, 11)
    largest = logits >= logits.topk(top_k, dim=0).values[-1]
    assert torch.equal(restored[largest], logits[largest])
    before, after = logits.softmax(dim=0), restored.softmax(dim=0)
    torch.testing.assert_close(after[largest], before[largest])
    assert largest.sum() == top_k * 5 * 7
    torch.testing.assert_close(
        after.masked_fill(largest, 0).sum(dim=0), before.masked_fill(largest, 0).sum(dim=0)
    )
    spread = restored.masked_fill(largest, -torch.inf).amax(dim=0)
    assert torch.equal(spread, restored.masked_fill(largest, torch.inf).amin(dim=0))


def test_all_classes_survive_half_precision(logits):
    packed = pack_top(logits, 4).half()
    restored = unpack_top(packed, 11)
    assert restored.dtype == torch.float16
    assert torch.equal(restored.argmax(dim=0), logits.argmax(dim=0))


def test_keeping_more_than_there_is_to_leave_out_is_refused():
    check_top_k(None, 3)
    check_top_k(4, 11)
    with pytest.raises(ValueError, match=r"at most 4 for this data set; got 5"):
        check_top_k(5, 11)
