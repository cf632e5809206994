import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.losses import cross_entropy, decoupled_kd_loss, kd_loss


def softmax(values: np.ndarray) -> np.ndarray:
    exponentials = np.exp(values - values.max())
    return exponentials / exponentials.sum()


def dkd_by_definition(
    student, teacher, target, temperature, alpha, beta, ignore_index=255, class_weights=None
):
    """Equations 5-7 of the DKD paper, pixel by pixel in float64 probabilities."""
    total, count = 0.0, 0
    for n, y, x in np.ndindex(*target.shape):
        label = target[n, y, x]
        if label == ignore_index:
            continue
        p = softmax(teacher[n, :, y, x] / temperature)
        q = softmax(student[n, :, y, x] / temperature)
        # The sum of the others, which 1 - p[label] would lose to rounding where p[label] is near 1.
        p_others, q_others = np.delete(p, label), np.delete(q, label)
        p_rest, q_rest = p_others.sum(), q_others.sum()
        tckd = p[label] * np.log(p[label] / q[label]) + p_rest * np.log(p_rest / q_rest)
        p_hat, q_hat = p_others / p_rest, q_others / q_rest
        nckd = (p_hat * np.log(p_hat / q_hat)).sum()
        weight = 1 if class_weights is None else class_weights[label]
        total += weight * (alpha * tckd + beta * nckd)
        count += weight
    return total / max(count, 1e-9) * temperature**2


@settings(max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    num_classes=st.integers(2, 7),
    temperature=st.floats(0.5, 8),
    alpha=st.floats(0, 4),
    beta=st.floats(0, 10),
)
def test_dkd_equals_its_definition(seed, num_classes, temperature, alpha, beta):
    generator = np.random.default_rng(seed)
    student, teacher = generator.normal(0, 3, (2, 2, num_classes, 3, 2))
    target = generator.integers(0, num_classes, (2, 3, 2))
    target[0, 0, 0] = 255
    expected = dkd_by_definition(student, teacher, target, temperature, alpha, beta)
    arguments = (torch.tensor(target), temperature, alpha, beta)
    double = decoupled_kd_loss(torch.tensor(student), torch.tensor(teacher), *arguments)
    single = decoupled_kd_loss(
        torch.tensor(student).float(), torch.tensor(teacher).float(), *arguments
    )
    assert double.item() == pytest.approx(expected, rel=1e-10, abs=1e-10)
    assert single.item() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_class_weights_count_in_what_the_teacher_says():
    generator = np.random.default_rng(1)
    student, teacher = generator.normal(0, 3, (2, 2, 3, 4, 3))
    target = generator.integers(0, 3, (2, 4, 3))
    target[1, 2] = 255
    weights = np.array([1.0, 0.0, 5.0])
    tensors = torch.tensor(student), torch.tensor(teacher), torch.tensor(target)
    found = decoupled_kd_loss(*tensors, 2.0, 1.0, 8.0, class_weights=torch.tensor(weights))
    expected = dkd_by_definition(student, teacher, target, 2.0, 1.0, 8.0, class_weights=weights)
    assert found.item() == pytest.approx(expected, rel=1e-10)
    # Plain KD: a class of weight 2 counts like a pixel that occurs twice.
    pairs = [tensor[:1, :, :1, :2] for tensor in tensors[:2]]
    labels = torch.tensor([[[0, 2]]])
    weighed = kd_loss(*pairs, 2.0, labels, class_weights=torch.tensor([1.0, 1.0, 2.0]))
    copies = [torch.cat([pair, pair[..., 1:]], dim=3) for pair in pairs]
    assert weighed.item() == pytest.approx(kd_loss(*copies, 2.0).item(), rel=1e-10)


def test_kd_equals_its_definition():
    generator = np.random.default_rng(0)
    student, teacher = generator.normal(0, 2, (2, 1, 4, 2, 2))
    expected = np.mean(
        [
            (p * np.log(p / q)).sum()
            for y, x in np.ndindex(2, 2)
            for p, q in [(softmax(teacher[0, :, y, x] / 2), softmax(student[0, :, y, x] / 2))]
        ]
    )
    loss = kd_loss(torch.tensor(student), torch.tensor(teacher), temperature=2.0)
    assert loss.item() == pytest.approx(expected * 4, rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        lambda s, t, y: decoupled_kd_loss(s, t, y),
        lambda s, t, y: kd_loss(s, t, target=y),
        lambda s, t, y: cross_entropy(s, y),
    ],
    ids=["dkd", "kd", "cross_entropy"],
)
def test_ignored_pixels_have_no_say(loss):
    torch.manual_seed(0)
    student = torch.randn(2, 5, 4, 4, requires_grad=True)
    teacher = torch.randn(2, 5, 4, 4)
    target = torch.randint(0, 5, (2, 4, 4))
    target[:, :2] = 255
    whole = loss(student, teacher, target)
    part = loss(student[:, :, 2:], teacher[:, :, 2:], target[:, 2:])
    torch.testing.assert_close(whole, part)
    (gradient,) = torch.autograd.grad(whole, student)
    assert (gradient[:, :, :2] == 0).all()
    assert (gradient[:, :, 2:] != 0).any()

    nothing = loss(student, teacher, torch.full_like(target, 255))
    assert nothing.item() == 0
    (gradient,) = torch.autograd.grad(nothing, student)
    assert (gradient == 0).all()


@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_dkd_is_stable_for_certain_networks(scale):
    student = (torch.randn(1, 4, 3, 3) * scale).requires_grad_()
    teacher = torch.randn(1, 4, 3, 3) * scale
    loss = decoupled_kd_loss(student, teacher, teacher.argmax(1))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(student.grad).all()


def test_a_perfect_student_has_nothing_to_learn():
    logits = torch.randn(1, 4, 3, 3)
    target = torch.zeros(1, 3, 3, dtype=torch.long)
    assert decoupled_kd_loss(logits, logits, target).item() == pytest.approx(0, abs=1e-5)
    assert kd_loss(logits, logits).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.0}, "temperature must be greater than 0, got 0.0"),
        ({"alpha": -1.0}, "got -1.0"),
        ({"target": torch.zeros(1, 2, 2)}, r"target must be \(1, 3, 3\), got \(1, 2, 2\)"),
        ({"teacher_logits": torch.zeros(1, 5, 3, 3)}, "the same shape"),
        ({"student_logits": torch.zeros(4, 3, 3)}, r"\(N, C, H, W\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {
        "student_logits": torch.zeros(1, 4, 3, 3),
        "teacher_logits": torch.zeros(1, 4, 3, 3),
        "target": torch.zeros(1, 3, 3),
    }
    with pytest.raises(ValueError, match=message):
        decoupled_kd_loss(**{**arguments, **change})
