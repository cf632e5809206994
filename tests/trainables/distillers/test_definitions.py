"""Losses on maps against their definitions, written out in loops in float64."""

import math

import numpy as np
import pytest
import torch

from trainables.distillers.adaptive_channel import (
    adaptive_feature_loss,
    channel_correlation_loss,
)
from trainables.distillers.distiller import Lesson
from trainables.distillers.feature_pairs import FeaturePairs
from trainables.distillers.layers import Layer
from trainables.distillers.maps import IGNORE_INDEX, shrink_to_common
from trainables.distillers.multi_level import activation_loss, consistency_loss
from trainables.distillers.similarity import similarity_loss
from trainables.losses import channel_kd_loss


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(0, 2, shape)


@pytest.fixture
def maps():
    student, teacher = draw(2, 3, 4, 5), draw(2, 3, 4, 5, seed=1)
    valid = np.random.default_rng(2).random((2, 4, 5)) < 0.7
    return student, teacher, valid


def tensors(*arrays):
    return tuple(torch.tensor(array) for array in arrays)


def softmax(values):
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_channel_kd_equals_its_definition(maps, temperature):
    student, teacher, valid = maps
    total = 0.0
    for n, c in np.ndindex(2, 3):
        p, q = (softmax(m[n, c][valid[n]] / temperature) for m in (teacher, student))
        total += (p * np.log(p / q)).sum()
    expected = temperature**2 * total / 6
    own, taught, mask = tensors(*maps)
    found = channel_kd_loss(own, taught, temperature, mask)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    single = channel_kd_loss(own.float(), taught.float(), temperature, mask)
    assert single.item() == pytest.approx(expected, rel=1e-4)


def test_channel_kd_does_not_see_what_is_added_to_a_channel(maps):
    own, taught, mask = tensors(*maps)
    offsets = torch.tensor([5.0, -300.0, 0.1]).view(1, 3, 1, 1)
    first = channel_kd_loss(own, taught, 2.0, mask)
    torch.testing.assert_close(first, channel_kd_loss(own + offsets, taught, 2.0, mask))
    torch.testing.assert_close(first, channel_kd_loss(own, taught - offsets, 2.0, mask))
    assert (first - channel_kd_loss(2 * own, taught, 2.0, mask)).abs() > 0.1


def test_similarities_equal_their_definition():
    student, teacher = (draw(1, c, 2, 3, seed=c) for c in (4, 7))
    valid = np.array([[[True, True, False], [True, True, True]]])
    places = [(y, x) for y, x in np.ndindex(2, 3) if valid[0, y, x]]

    def cosine(m, a, b):
        one, two = m[0, :, *a], m[0, :, *b]
        return one @ two / np.linalg.norm(one) / np.linalg.norm(two)

    gaps = [(cosine(student, a, b) - cosine(teacher, a, b)) ** 2 for a in places for b in places]
    own, taught, mask = tensors(student, teacher, valid)
    found = similarity_loss((own, own), (taught, taught), (mask, mask))
    assert found.item() == pytest.approx(np.mean(gaps), rel=1e-10)
    rotation = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64)).Q
    turned = -3 * torch.einsum("ij,njhw->nihw", rotation, taught)
    again = similarity_loss((own, own), (turned, turned), (mask, mask))
    torch.testing.assert_close(found, again)


def standardise(values, valid):
    seen = values[:, valid]
    return (seen - seen.mean(1, keepdims=True)) / np.sqrt(seen.var(1, keepdims=True) + 1e-6)


def test_channel_correlations_equal_their_definition(maps):
    student, teacher, valid = maps
    gaps = []
    for n in range(2):
        own, taught = (standardise(m[n], valid[n]) for m in (student, teacher))
        count = valid[n].sum()
        gaps.append(((own @ own.T / count - taught @ taught.T / count) ** 2).mean())
    own, taught, mask = tensors(*maps)
    found = channel_correlation_loss(own, taught, mask)
    assert found.item() == pytest.approx(np.mean(gaps), rel=1e-10)
    factors = torch.tensor([4.0, 0.5, 9.0]).view(1, 3, 1, 1)
    again = channel_correlation_loss(own * factors + 7, taught, mask)
    torch.testing.assert_close(found, again, rtol=1e-4, atol=1e-7)


def test_adaptive_features_equal_their_definition(maps):
    student, teacher, valid = maps
    losses = []
    for n in range(2):
        own, taught = (standardise(m[n], valid[n]) for m in (student, teacher))
        seen = teacher[n][:, valid[n]]
        seen = seen / np.sqrt((seen**2).mean())
        attention = np.stack([softmax(row) for row in seen @ seen.T / seen.shape[1]])
        weights = 3 * attention.mean(0)
        assert weights.mean() == pytest.approx(1)
        losses.append((weights * ((own - taught) ** 2).mean(1)).mean())
    found = adaptive_feature_loss(*tensors(*maps))
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-10)


def test_activations_equal_their_definition(maps):
    _, teacher, valid = maps
    student = draw(2, 6, 4, 5, seed=3)
    losses = []
    for n in range(2):
        shares = []
        for m in (student, teacher):
            energy = (m[n] ** 2).mean(0)[valid[n]]
            energy = energy / energy.mean() + 1e-3
            shares.append(energy / energy.sum())
        own, taught = shares
        losses.append((taught * np.log(taught / own)).sum())
    own, taught, mask = tensors(student, teacher, valid)
    found = activation_loss(own, taught, mask)
    assert found.item() == pytest.approx(np.mean(losses), rel=1e-10)
    torch.testing.assert_close(found, activation_loss(-5 * own, taught, mask))


def test_consistency_equals_its_definition():
    probabilities = [
        np.apply_along_axis(softmax, 1, draw(1, 3, 2, 3, seed=seed)) for seed in range(4)
    ]
    own, taught = probabilities[:2], probabilities[2:]
    valid = [np.ones((1, 2, 3), bool), np.ones((1, 2, 3), bool)]
    valid[0][0, 0, 0] = valid[1][0, 1, 2] = False
    gaps = []
    for y, x in np.ndindex(2, 3):
        if not valid[0][0, y, x]:
            continue
        scores, there = [], []
        for v, u in np.ndindex(2, 3):
            if valid[1][0, v, u]:
                one, two = taught[0][0, :, y, x], taught[1][0, :, v, u]
                alike = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
                distance = ((y - v) / 2) ** 2 + ((x - u) / 3) ** 2
                scores.append(alike / 0.1 - distance / (2 * 0.1**2))
                there.append(own[1][0, :, v, u])
        brought = softmax(np.array(scores)) @ np.array(there)
        gaps.append(((own[0][0, :, y, x] - brought) ** 2).sum())
    found = consistency_loss(tensors(*own), tensors(*taught), tensors(*valid))
    assert found.item() == pytest.approx(np.mean(gaps), rel=1e-9)


def test_a_constant_prediction_is_consistent():
    constant = torch.full((1, 4, 3, 3), 0.25)
    taught = torch.rand(1, 4, 3, 3).softmax(1), torch.rand(1, 4, 3, 3).softmax(1)
    valid = torch.ones(1, 3, 3, dtype=torch.bool)
    found = consistency_loss((constant, constant), taught, (valid, valid))
    assert found.item() == pytest.approx(0, abs=1e-10)
    assert math.isfinite(found.item())


def test_maps_are_compared_at_a_quarter_of_the_image_at_most():
    fine, coarse = torch.rand(1, 2, 30, 41), torch.rand(1, 3, 4, 6)
    own, taught = shrink_to_common(fine, fine.half(), (30, 41))
    assert own.shape[-2:] == taught.shape[-2:] == (8, 11)
    assert own.mean() == pytest.approx(float(fine.mean()), abs=0.02)
    assert [m.shape[-2:] for m in shrink_to_common(fine, coarse, (30, 41))] == [(4, 6), (4, 6)]
    unchanged, _ = shrink_to_common(coarse, coarse, (16, 24))
    assert torch.equal(unchanged, coarse)


def test_the_cells_of_a_padded_image_keep_their_places():
    """DeepLabV3+ pads 40 rows to 48, where its maps have 12; the other network does not pad."""
    padded, plain = Layer("padded", False, 1, 4), Layer("plain", False, 1, 4)
    rows = torch.arange(12.0).expand(1, 1, 8, 12).mT.contiguous()
    target = torch.zeros(1, 40, 32, dtype=torch.long)
    target[:, 20:] = IGNORE_INDEX
    maps = {"padded": rows, "plain": rows[..., :10, :]}
    for own, other in ((padded, plain), (plain, padded), (padded, padded)):
        lesson = Lesson(torch.zeros(1, 2, 40, 32), None, target, None, maps, maps)
        (found,) = FeaturePairs([(own, other)]).read(lesson)
        assert torch.equal(found.student, rows[..., :10, :])
        assert torch.equal(found.teacher, rows[..., :10, :])
        assert found.valid.sum() == 5 * 8
