from __future__ import annotations

import pytest

from trainables.predicting.evaluations import choose_images

MIOU = {0: 0.1, 1: 0.5, 2: 0.9, 3: 0.52, 4: 0.3}


def test_rankings_take_turns():
    chosen = choose_images(MIOU, {0: 0.0, 1: 0.1, 2: 0.8, 3: 0.2, 4: 0.3}, 3)
    # median 0.5 is image 1; the worst is image 0; image 2 divides the networks most
    assert chosen == {
        1: ["typical"],
        0: ["worst for the front's best"],
        2: ["largest disagreement"],
    }


def test_an_image_wanted_twice_counts_once():
    chosen = choose_images(MIOU, {0: 0.9, 4: 0.8}, 4)
    assert list(chosen) == [1, 0, 3, 4]
    assert chosen[0] == ["worst for the front's best", "largest disagreement"]


def test_no_disagreement_is_no_reason():
    chosen = choose_images(MIOU, dict.fromkeys(MIOU, 0.0), 5)
    assert len(chosen) == 5
    assert not any("largest disagreement" in reasons for reasons in chosen.values())


@pytest.mark.parametrize("wanted", [1, 8])
def test_never_more_than_wanted_or_there(wanted):
    assert len(choose_images(MIOU, {}, wanted)) == min(wanted, 5)
    assert choose_images({}, {}, wanted) == {}
