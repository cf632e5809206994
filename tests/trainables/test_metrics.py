import pytest
import torch

from trainables.metrics import ConfusionMatrix


def test_miou_by_hand():
    matrix = ConfusionMatrix(3)
    target = torch.tensor([0, 0, 0, 1, 1, 255])
    prediction = torch.tensor([0, 0, 1, 1, 0, 2])
    matrix.update(prediction, target)
    # class 0: 2 hits of 2 + 1 + 1; class 1: 1 hit of 1 + 1 + 1; class 2 never occurs
    assert matrix.iou[:2].tolist() == pytest.approx([2 / 4, 1 / 3])
    assert matrix.iou[2].isnan()
    assert matrix.miou == pytest.approx((2 / 4 + 1 / 3) / 2)
    assert matrix.pixel_accuracy == pytest.approx(3 / 5)
    assert matrix.name_iou("abc") == pytest.approx({"a": 2 / 4, "b": 1 / 3, "c": None})


def test_streaming_equals_one_batch():
    torch.manual_seed(0)
    target, prediction = torch.randint(0, 4, (2, 6, 5, 5))
    target[0] = 255
    whole, first = ConfusionMatrix(4), ConfusionMatrix(4)
    whole.update(prediction, target)
    first.update(prediction[:3], target[:3].to(torch.uint8))
    first.update(prediction[3:], target[3:])
    assert torch.equal(first.counts, whole.counts)
    assert first.miou == whole.miou


def test_a_class_predicted_but_absent_counts_as_wrong():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert matrix.iou.tolist() == [0.5, 0.0]


@pytest.mark.parametrize(
    ("prediction", "target", "message"),
    [
        ([0, 1], [0], "the same shape"),
        ([0, 3], [0, 1], r"prediction must be in 0..2 .* got 0..3"),
        ([0, 1], [0, 7], r"target must be in 0..2 .* got 0..7"),
    ],
)
def test_bad_labels_are_named(prediction, target, message):
    with pytest.raises(ValueError, match=message):
        ConfusionMatrix(3).update(torch.tensor(prediction), torch.tensor(target))
