"""TBFENet: the numbers of paper 3, those of its ablations included."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models import create_model
from models.cost import count_cost


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"spatial_branch": False, "channel_attention": False}, 872_947),  # published 0.8729 M
        ({"spatial_branch": False}, 873_100),  # 0.8731
        ({"spatial_attention": False, "fusion": "add"}, 903_180),  # 0.9032
        ({"spatial_attention": False}, 904_996),  # 0.9050
        ({}, 905_094),  # 0.9051
    ],
)
def test_table_1_is_reproduced(kwargs: dict[str, Any], expected: int):
    with torch.device("meta"):
        model = create_model("tbfenet", **kwargs)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize(("size", "gmac"), [((512, 1024), 28.65), ((360, 480), 9.44)])
def test_cost(size: tuple[int, int], gmac: float):
    with torch.device("meta"):
        model = create_model("tbfenet")
    assert count_cost(model, (3, *size)).macs / 1e9 == pytest.approx(gmac, abs=0.005)


def test_an_unknown_fusion_is_named():
    with pytest.raises(ValueError, match=r"fusion must be one of .*'attention'.*got 'concat'"):
        create_model("tbfenet", fusion="concat")


def test_ablations_run():
    images = torch.randn(1, 3, 65, 97)
    for kwargs in ({"spatial_branch": False, "channel_attention": False}, {"fusion": "add"}):
        with torch.inference_mode():
            assert create_model("tbfenet", 3, **kwargs).eval()(images).shape == (1, 3, 65, 97)
